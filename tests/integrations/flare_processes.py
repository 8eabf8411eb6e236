"""NVFlare as it is deployed: its proof of concept, a server and sites as processes, each with a certificate."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

BIN = Path(sys.executable).parent
START_SECONDS = 240.0  # on two busy cores; alone it takes 20


# Of what a job says, a site that takes no code runs these two beside NVFlare's own.
RELAY = ["nvflare.collab.runtime.executor.CollabExecutor", "collabsecure.integrations.nvflare.ClientActions"]


class Flare:
    """Close it and all processes are gone; what they said is in `folder`."""

    def __init__(self, folder, sites, *, takes_code=True):
        self.folder = folder
        self._takes_code = takes_code
        self.sites = [f"site-{number + 1}" for number in range(sites)]
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.kits = folder / "poc" / "example_project" / "prod_00"
        self._scripts, self._jobs, self._started = [], [], 0

    def __enter__(self):
        (self.folder / "home").mkdir(parents=True)
        try:
            self._poc("prepare", "-n", len(self.sites), "--force")
            if not self._takes_code:
                for site in self.sites:
                    take_no_code(self.kits / site / "local")
            self._poc("start", "--timeout", int(START_SECONDS))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, script, *arguments):
        """A script that makes a job and runs it here, as its submitter."""
        self._started = len(self.said("server"))
        process = _script(self.folder, self.environment, script, *arguments, "--startup-kit", self.kit)
        self._scripts.append(process)
        return process

    def submit(self, job):
        """Hand over a job's folder."""
        self._started = len(self.said("server"))
        self._jobs.append(re.search(r"job_id: (\S+)", self._nvflare("job", "submit", "-j", job))[1])

    def status(self, seconds=120):
        """How the job that was submitted last ended."""
        ends = time.monotonic() + seconds
        while not (status := self._listed(self._jobs[-1])).startswith(("FINISHED", "FAILED")):
            assert time.monotonic() < ends, status
            time.sleep(1)
        return status

    def _listed(self, job):
        return next(line.split()[2] for line in self._nvflare("job", "list").splitlines() if line.startswith(job))

    def ended(self):
        """How the last job that a script waited for did."""
        return re.findall(r"'status': '(FINISHED:\w+)'", (self.folder / "script.log").read_text(errors="replace"))[-1]

    @property
    def kit(self):
        """Of an admin who may submit jobs."""
        return self.kits / "admin@nvidia.com"

    def says(self, text, seconds):
        """Wait until the job that was started last has said something at the server."""
        ends = time.monotonic() + seconds
        while text not in (said := self.said("server")[self._started :]):
            assert time.monotonic() < ends, f"the server does not say {text!r}:\n{said[-20_000:]}"
            time.sleep(0.2)

    def said(self, name):
        return (self.kits / name / "poc_console.log").read_text(errors="replace")

    def kill_site(self, name):
        """End all of a site's processes without a word, as its machine's end would."""
        _kill(self.kits / name)

    def kill_job(self, name):
        """End the process of a site's job alone; the site's own notices."""
        _kill(self.kits / name, "worker_process")

    def close(self):
        with suppress(subprocess.SubprocessError, AssertionError):  # it has 30 seconds for that
            self._poc("stop", timeout=60)
        for process in self._scripts:
            process.kill()
            process.wait()
        _kill(self.kits)

    def _poc(self, *arguments, timeout=START_SECONDS + 60):
        self._nvflare("poc", *arguments, timeout=timeout)

    def _nvflare(self, *arguments, timeout=60):
        done = subprocess.run(
            [str(BIN / "nvflare"), *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def take_no_code(local):
    """What a site's owner writes into `local/`: nobody's own code runs here, but collabsecure's relay does."""
    rights = json.loads((local / "authorization.json.default").read_text())
    admin = dict.fromkeys(("submit_job", "clone_job", "manage_job", "download_job", "view", "operate"), "any")
    rights["permissions"]["project_admin"] = {**admin, "byoc": "none"}
    for role in ("org_admin", "lead"):
        rights["permissions"][role]["byoc"] = "none"
    (local / "authorization.json").write_text(json.dumps(rights))
    resources = json.loads((local / "resources.json.default").read_text())
    resources["class_allow_list"] += RELAY
    resources["allow_log_streaming"] = False
    (local / "resources.json").write_text(json.dumps(resources))


def simulate(folder, script, *arguments, seconds=400.0):
    """Run a script's job in the simulator: the server and each site are processes, without certificates."""
    (folder / "home").mkdir(parents=True)
    environment = {**os.environ, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = _script(folder, environment, script, *arguments, "--simulate", folder / "simulation")
    try:
        code = process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        _kill(folder / "simulation")
    log = (folder / "script.log").read_text(errors="replace")
    assert code == 0, log[-20_000:]
    return log


def _script(folder, environment, script, *arguments):
    command = [sys.executable, str(script), *map(str, arguments)]
    with (folder / "script.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


def _kill(folder, *parts):
    """Every process that was started with a path in `folder`: NVFlare lets its own go as soon as they are started."""
    for _ in range(20):  # a script may start another before it has ended
        found = list(processes(f"{folder}{os.sep}", parts))
        found += [] if parts else list(processes(f"{folder} ", parts))
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def processes(path, parts):
    """Those whose command has all these words; it is of their own folders that it names."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if path in command and all(part in command for part in parts):
                    yield int(entry.name)

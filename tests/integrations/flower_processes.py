"""Flower as it is deployed: a SuperLink and SuperNodes as processes, over TLS, each node known by its key."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from certificates import issue, make_authority
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

BIN = Path(sys.executable).parent
SETTLE_SECONDS = 60.0  # for any one thing that is waited for, but a run


class Deployment:
    """Close it and all processes are gone; what they said is in `folder`."""

    def __init__(self, folder, node_configs, *, node_environments=None):
        self.folder = folder
        self.node_configs = node_configs
        self._environments = node_environments or [{}] * len(node_configs)
        self._processes, self.watched = {}, []  # other processes' numbers, whose memory is of interest as well
        self.peaks = {}  # name → the most memory (VmHWM) of its process and all below it, each, in bytes
        folder.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own commands by name
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        authority = make_authority(folder / "tls", "authority")
        self._ca, self._tls = authority.certificate, issue(authority, "localhost")
        self.port = free_port()
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            "[superlink]\ndefault = 'here'\n"
            f"[superlink.here]\naddress = '127.0.0.1:{self.port}'\nroot-certificates = '{self._ca}'\n"
        )
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        try:
            self.start_superlink()
            for node in range(len(self.node_configs)):
                self._register(node)
                self.start_node(node)
        except BaseException:
            self.close()
            raise
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self.close()

    def start_superlink(self):
        tls = ("--ssl-ca-certfile", self._ca, "--ssl-certfile", self._tls.certificate, "--ssl-keyfile", self._tls.key)
        here = ("--host", "127.0.0.1", "--port", self.port)
        without = "--disable-runtime-dependency-installation"  # or it asks a package index
        self._start("superlink", ["flower-superlink", *here, *tls, "--enable-supernode-auth", without])
        ends = time.monotonic() + SETTLE_SECONDS
        while not self._listening():
            assert time.monotonic() < ends, self.said("superlink")
            assert self._processes["superlink"].poll() is None, self.said("superlink")
            time.sleep(0.1)

    def start_node(self, node):
        config = " ".join(f'{name}="{value}"' for name, value in self.node_configs[node].items())
        link = ("--superlink", f"127.0.0.1:{self.port}", "--root-certificates", self._ca)
        own = ("--auth-supernode-private-key", self._key(node), "--port", free_port(), "--node-config", config)
        self._start(f"node-{node}", ["flower-supernode", *link, *own], self._environments[node])

    def kill_node(self, node):
        """End a SuperNode and what it has started, without a word."""
        self._kill(f"node-{node}")

    def bring_back(self, node):
        """Start a killed SuperNode again, as a service manager does: Flower lets it in once its minute is over."""
        ends, name = time.monotonic() + 3 * SETTLE_SECONDS, f"node-{node}"
        known = self.said(name).count("SuperNode ID")
        self.start_node(node)
        while self.said(name).count("SuperNode ID") == known:
            assert time.monotonic() < ends, self.said(name)
            if self._processes[name].poll() is not None:
                self.start_node(node)
            time.sleep(0.5)

    def run(self, app, config=None):
        """Hand over an app as `flwr run` does; the run's number."""
        options = [f"{name}={json.dumps(value)}" for name, value in (config or {}).items()]
        return int(self._flwr("run", app, *(part for option in options for part in ("--run-config", option)))["run-id"])

    def status(self, run):
        """For instance `running` or `finished:completed`."""
        return self._flwr("list", "--run-id", run)["runs"][0]["status"]

    def wait(self, run, seconds):
        """How it ended; what its server app said."""
        ends = time.monotonic() + seconds
        while not (status := self.status(run)).startswith("finished"):
            assert time.monotonic() < ends, f"run {run} is {status} after {seconds} s:\n{self.log(run)}"
            time.sleep(1)
        return status, self.log(run)

    def says(self, run, text, seconds=SETTLE_SECONDS):
        """Wait until the server app has said something."""
        ends = time.monotonic() + seconds
        while text not in (log := self.log(run)):
            assert time.monotonic() < ends, f"run {run} does not say {text!r}:\n{log}"
            assert not self.status(run).startswith("finished"), f"run {run} ended without {text!r}:\n{log}"
            time.sleep(0.5)

    def log(self, run):
        return self._command("log", run, "--show").stdout

    def said(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self):
        self._watching.set()
        for name in reversed(list(self._processes)):
            with suppress(ProcessLookupError):
                os.kill(self._processes[name].pid, signal.SIGTERM)
        for name, process in self._processes.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            self._kill(name)

    def _start(self, name, command, environment=None):
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(part) for part in command],
                env={**self.environment, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )

    def _kill(self, name):
        """The process, and whatever is below it: Flower gives some a session of their own."""
        process = self._processes[name]
        for pid in [process.pid, *descendants(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _key(self, node):
        return self.folder / f"node-{node}.key"

    def _register(self, node):
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        self._key(node).write_bytes(private)
        public = self.folder / f"node-{node}.pub"
        public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        self._flwr("supernode", "register", public)

    def _flwr(self, *arguments):
        done = self._command(*arguments, "--format", "json")
        found = json.loads(done.stdout)
        assert found["success"], done.stdout + done.stderr
        return found

    def _command(self, *arguments):
        return subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SETTLE_SECONDS,
            check=False,
        )

    def _listening(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _watch(self):
        while not self._watching.wait(0.05):
            watched = [(name, process.pid) for name, process in list(self._processes.items())]
            for name, top in watched + [("beside", pid) for pid in self.watched]:
                for pid in [top, *descendants(top)]:
                    with suppress(OSError, IndexError):  # it has ended
                        what = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode().rpartition("/")[2]
                        self.peaks[name, what] = max(self.peaks.get((name, what), 0), peak_bytes(pid))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid):
    """All processes below one, by id."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def peak_bytes(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)

"""Command lines as real processes, each a fork of one `zygote` that has imported everything."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from crashes import Hooks

START_SECONDS = 90.0  # to import PyTorch on a busy machine
SETTLE_SECONDS = 120.0  # for any one thing that a test waits for: only a hang takes so long
_SINGLE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Process:
    """One command line at work, or ended."""

    def __init__(self, name, stdout, stderr):
        self.name, self._stdout, self._stderr = name, stdout, stderr
        self.pid, self.code = None, None
        self._hangs = time.monotonic() + SETTLE_SECONDS
        self._started, self._ended = threading.Event(), threading.Event()

    def wait(self, seconds=SETTLE_SECONDS):
        """Its exit code; −9 if it was killed."""
        assert self._ended.wait(seconds), f"{self.name} does not end; so far:\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        return self.code

    def wait_a_little(self):
        """Its exit code if it has ended, or ends within moments; None if it goes on."""
        assert time.monotonic() < self._hangs, f"{self.name} does not end; so far:\n{self.stderr}"
        self._ended.wait(0.02)
        return self.code

    def kill(self, number=signal.SIGKILL):
        """End it at once, if it has not ended."""
        if not self._ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        return self

    def gone(self):
        """Wait until it has ended, however it did."""
        assert self._ended.wait(SETTLE_SECONDS), f"{self.name} cannot be killed"

    @property
    def is_running(self):
        return not self._ended.is_set()

    @property
    def stdout(self):
        return self._stdout.read_text() if self._stdout.exists() else ""

    @property
    def stderr(self):
        return self._stderr.read_text() if self._stderr.exists() else ""

    def says(self, text, seconds=SETTLE_SECONDS):
        """Wait until it has said something on standard error."""
        ends = time.monotonic() + seconds
        while text not in self.stderr:
            assert time.monotonic() < ends, f"{self.name} does not say {text!r}; so far:\n{self.stderr}"
            assert self.is_running or text in self.stderr, f"{self.name} ended without {text!r}:\n{self.stderr}"
            time.sleep(0.02)

    # For `Zygote` alone

    def has_started(self, pid):
        self.pid = pid
        self._started.set()

    def has_ended(self, code):
        self.code = code
        self._ended.set()

    def wait_started(self):
        assert self._started.wait(START_SECONDS), "the zygote does not answer"


class Zygote:
    """Starts processes; close it and all of them are gone."""

    def __init__(self, folder):
        self._folder, self._numbers = folder, itertools.count(1)
        self._jobs, self._running = {}, {}
        environment = {**os.environ, **dict.fromkeys(_SINGLE, "1"), "PYTHONUTF8": "1", "TQDM_DISABLE": "1"}
        with (folder / "zygote.err").open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("zygote.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, name, arguments, *, folder, hooks=None, environment=None, program="collabsecure"):
        """Start a command line in a folder; its output goes to NAME-N.out and NAME-N.err there."""
        assert self._ready.wait(START_SECONDS), (self._folder / "zygote.err").read_text()
        number = next(self._numbers)
        stdout, stderr = (folder / f"{name}-{number}.{end}" for end in ("out", "err"))
        process = Process(name, stdout, stderr)
        with self._lock:
            self._jobs[number] = process
        job = {
            "job": number,
            "program": program,
            "arguments": list(map(str, arguments)),
            "folder": str(folder),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "environment": environment or {},
            "hooks": (hooks or Hooks()).to_json(),
        }
        self._child.stdin.write(json.dumps(job).encode() + b"\n")
        self._child.stdin.flush()
        process.wait_started()
        return process

    def run(self, name, arguments, **options):
        """Start a command line and wait until it has ended well."""
        process = self.start(name, arguments, **options)
        assert process.wait() == 0, process.stderr
        return process

    def number(self):
        """A number that nobody else has."""
        return f"{os.getpid()}-{next(self._numbers)}"

    def close(self):
        self._child.stdin.close()
        self._child.wait(30)
        self._reader.join(30)
        self._child.stdout.close()

    def _read(self):
        for line in self._child.stdout:
            answer = json.loads(line)
            if "ready" in answer:
                self._ready.set()
                continue
            with self._lock:
                if "job" in answer:
                    process = self._running[answer["pid"]] = self._jobs.pop(answer["job"])
                    process.has_started(answer["pid"])
                else:
                    self._running.pop(answer["pid"]).has_ended(answer["code"])

"""Headless Chromium over the DevTools protocol, on two pipes; standard library only.

Messages are JSON that ends in NUL: ours on the browser's descriptor 3, its own on 4.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
# The pipes' ends may be 3 or 4 here; so the child moves them, before it becomes the browser.
_TAKE_PIPES = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class BrowserError(Exception):
    """The browser says no, or nothing."""


class Browser:
    """One browser with one page; use it in a `with` block."""

    def __enter__(self):
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (their_in, their_out)]
        command = [sys.executable, "-c", _TAKE_PIPES, *map(str, theirs), CHROMIUM, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._folder}", "about:blank"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (their_in, their_out, *theirs):
            os.close(end)
        self._buffer = bytearray()
        self._last = 0
        self._session = None
        self.errors: list[str] = []  # uncaught exceptions and what the page's policy blocked
        targets = self._call("Target.getTargets")["targetInfos"]
        (target,) = [target for target in targets if target["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._session = None
        with contextlib.suppress(BrowserError, OSError):
            self._call("Browser.close")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method, **parameters):
        """A command to the page, and its answer."""
        return self._call(method, **parameters)

    def open(self, url):
        """Go there; the page's scripts run, it may still load."""
        answer = self._call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(answer["errorText"])
        self.until("document.readyState === 'complete'")

    def ask(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, expression, seconds=10.0):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self._is(expression):
            if time.monotonic() > end:
                raise BrowserError(f"not within {seconds} s: {expression}")
            time.sleep(0.02)

    def _is(self, expression):
        with contextlib.suppress(BrowserError):  # between two pages there may be nothing to ask
            return self.ask(expression)

    def live_through(self, seconds):
        """Let so much time pass for the page, as fast as the machine can; timers are all kept."""
        self._expired = False
        self._call("Emulation.setVirtualTimePolicy", policy="advance", budget=seconds * 1000)
        while not self._expired:
            self._note(self._receive())

    def look(self, *, width, height=0, dark=False):
        """Be so many CSS pixels wide, in the light or the dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height or 900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path):
        """The whole page as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _call(self, method, **parameters):
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["source"] == "security":
            self.errors.append(parameters["entry"]["text"])
        elif event.get("method") == "Emulation.virtualTimeBudgetExpired":
            self._expired = True

    def _receive(self, seconds=30.0):
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], seconds)[0]:
                raise BrowserError(f"no answer within {seconds} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserError("the browser is gone")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer = bytearray(rest)
        return json.loads(line)

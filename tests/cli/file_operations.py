"""Where a kill could fall: a call before every change of a file's name, and at every flush to the disk."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path


class _FileOperations:
    """An audit hook cannot be taken off again, so there is one for all tests, and it is mostly silent."""

    def __init__(self):
        self._tell = None
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self._tell is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"):
            self._call(arguments[0])

    def _call(self, path):
        tell, self._tell = self._tell, None
        try:
            tell(path)
        finally:
            self._tell = tell

    @contextmanager
    def watched(self, tell, monkeypatch):
        """Call `tell` with the path at hand, at a flush with what the descriptor stands for, while the block lasts."""
        fsync = os.fsync

        def flushing(descriptor):
            if self._tell is not None:
                self._call(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", flushing)
            self._tell = tell
            try:
                yield
            finally:
                self._tell = None


OPERATIONS = _FileOperations()

"""A Unix socket that its owner alone can speak to, at every moment that it is there.

Who may connect is decided by the socket's mode; who may put another in its place, by the directories and links above.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure.files import in_words, unwritable

_MOST_PATH_BYTES = 107  # what Linux has room for; some systems have for 103
_BACKLOG = 16
_LOCK_SECONDS = 10.0
_MOST_LINKS = 40  # as on Linux
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def private_socket(path: Path) -> Iterator[socket.socket]:
    """A socket that listens at `path` and does not block, mode 0600, until the block ends.

    What a process left there that is gone is replaced.

    Raises:
        BadFile: somebody listens there, something else is there, or others have a say in the directories above.
    """
    path = own_directory(path.parent) / path.name
    length = len(os.fsencode(path))
    if length > _MOST_PATH_BYTES:
        raise BadFile(path, found=f"a path of {length} bytes", expected=f"at most {_MOST_PATH_BYTES}, for a socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(path.parent):
            _clear(path)
            umask = os.umask(0o177)
            try:
                listener.bind(str(path))
            except OSError as error:
                raise unwritable(path, error) from error
            finally:
                os.umask(umask)
            found = path.lstat()
            listener.listen(_BACKLOG)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            with suppress(OSError, BadFile), _alone_in(path.parent):
                if os.path.samestat(found, path.lstat()):
                    path.unlink()
    finally:
        listener.close()


def own_directory(folder: Path) -> Path:
    """Where a path leads, if it is a directory of one's own, and nobody else can make the path lead elsewhere.

    Raises:
        BadFile: it, or one on the way, links included, is another user's, or others may write in it.
    """
    at, rest, num_links = Path("/"), deque(folder.absolute().parts[1:]), 0
    try:
        _refuse_others(at, at.lstat(), is_last=False)
        while rest:
            here = at.parent if rest[0] == ".." else at / rest[0]
            rest.popleft()
            found = here.lstat()
            if stat.S_ISLNK(found.st_mode):
                num_links += 1
                if num_links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))  # noqa: TRY301
                _refuse_owner(here, found, "a link")
                target = here.readlink()
                rest.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
                at = Path("/") if target.is_absolute() else at
            else:
                _refuse_others(here, found, is_last=False)
                at = here
        _refuse_others(at, at.lstat(), is_last=True)
    except OSError as error:
        raise BadFile(
            folder,
            found=f"no directory ({in_words(error)})",
            expected="one of your own",
            remedy=f"mkdir -m 700 {folder}",
        ) from error
    return at


def _refuse_others(at: Path, found: os.stat_result, *, is_last: bool) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _refuse_owner(at, found, "a directory")
    if is_last and found.st_uid != os.geteuid():
        raise _foreign(at, found, "a directory")
    sticky = not is_last and found.st_mode & stat.S_ISVTX  # others cannot move what is not theirs
    if found.st_mode & _OTHERS_WRITE and not sticky:
        elsewhere = "a path elsewhere: mkdir -m 700 DIRECTORY"
        is_shared = found.st_mode & stat.S_ISVTX or found.st_uid != os.geteuid()  # as /tmp, which all need so
        raise BadFile(
            at,
            found=f"a directory in which others may write, mode {stat.S_IMODE(found.st_mode):04o}",
            expected="one in which its owner alone may",
            remedy=f"Give {elsewhere}" if is_shared else f"chmod go-w {at}, or give {elsewhere}",
        )


def _refuse_owner(at: Path, found: os.stat_result, what: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise _foreign(at, found, what)


def _foreign(at: Path, found: os.stat_result, what: str) -> BadFile:
    return BadFile(
        at,
        found=f"{what} of user {found.st_uid}",
        expected=f"one of this process's own user, {os.geteuid()}",
        remedy="Give a path in a directory that you made: mkdir -m 700 DIRECTORY",
    )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time looks what is there, and changes it.

    Raises:
        BadFile: another has been at it for too long; who may read the directory can lock it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    ends = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > ends:
                raise BadFile(
                    folder,
                    found=f"a lock that another process has held for {_LOCK_SECONDS:.0f} s",
                    expected="to look what is there, alone",
                    remedy="End that process (fuser -v DIRECTORY), and keep others from reading here: chmod 700",
                ) from error
            time.sleep(0.05)
        else:
            return


def _clear(path: Path) -> None:
    """Remove a socket at which nobody listens any more."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise BadFile(path, found="something that is no socket", expected="a new name, or a socket left by a daemon")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink()
                return
    raise BadFile(
        path,
        found="another process that listens there",
        expected="a path for this daemon alone",
        remedy="End the other one, or give another --socket",
    )

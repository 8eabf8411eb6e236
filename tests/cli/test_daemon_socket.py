"""A socket for its owner alone: from its first moment to its last, and nothing else in its place."""

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys

import pytest

from collabsecure.errors import BadFile
from collabsecure_cli import daemon_socket
from collabsecure_cli.daemon_socket import private_socket


@pytest.fixture
def folder(socket_folder):
    return socket_folder


def test_nobody_but_its_owner_may_connect_from_its_first_moment(folder, monkeypatch):
    modes, umask = [], os.umask(0o022)
    os.umask(umask)

    class Watched(socket.socket):
        def bind(self, address):
            super().bind(address)
            modes.append(stat.S_IMODE(os.lstat(address).st_mode))

        def listen(self, backlog):
            super().listen(backlog)
            modes.append(stat.S_IMODE((folder / "s").lstat().st_mode))

    monkeypatch.setattr(daemon_socket.socket, "socket", Watched)
    with private_socket(folder / "s") as listener:
        assert modes == [0o600, 0o600]
        assert not listener.getblocking()
        assert os.umask(umask) == umask
    assert not (folder / "s").exists()


def test_what_a_killed_process_left_is_replaced(folder):
    program = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os._exit(1)"
    subprocess.run([sys.executable, "-c", program, folder / "s"], check=False)
    assert (folder / "s").is_socket()
    with private_socket(folder / "s"), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(folder / "s"))


def test_who_listens_already_is_left_alone(folder):
    with (
        private_socket(folder / "s") as first,
        pytest.raises(BadFile, match=r"another process that listens there.*give another --socket"),
        private_socket(folder / "s"),
    ):
        pass
    assert first.fileno() == -1


def test_a_file_that_is_no_socket_is_left_alone(folder):
    (folder / "s").write_text("precious")
    (folder / "link").symlink_to(folder / "s")
    for name in ("s", "link"):
        with pytest.raises(BadFile, match="something that is no socket"), private_socket(folder / name):
            pass
    assert (folder / "s").read_text() == "precious"


def test_a_socket_that_another_process_has_put_in_its_place_is_not_removed(folder):
    with private_socket(folder / "s"), contextlib.ExitStack() as other:
        (folder / "s").unlink()
        late = other.enter_context(socket.socket(socket.AF_UNIX))
        late.bind(str(folder / "s"))
    assert (folder / "s").is_socket()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_directory_in_which_others_may_write_is_refused(folder, mode):
    inside = folder / "of-all"
    inside.mkdir()
    inside.chmod(mode)
    with pytest.raises(BadFile, match=rf"others may write, mode {mode:04o}; ") as refused, private_socket(inside / "s"):
        pass
    assert ("chmod go-w" in str(refused.value)) is not bool(mode & stat.S_ISVTX)  # /tmp is to stay as it is
    assert "mkdir -m 700" in str(refused.value)


def test_a_directory_that_others_could_replace_is_refused(folder):
    inside = folder / "of-all" / "mine"
    inside.mkdir(parents=True)
    inside.parent.chmod(0o777)
    with pytest.raises(BadFile, match="others may write"), private_socket(inside / "s"):
        pass
    inside.parent.chmod(0o1777)  # as /tmp is: what is another's cannot be moved
    with private_socket(inside / "s"):
        pass


def test_another_users_directory_is_refused(folder, monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with (
        pytest.raises(BadFile, match=rf"a directory of user {me}; expected .*mkdir -m 700"),
        private_socket(folder / "s"),
    ):
        pass


def test_a_link_into_another_directory_is_judged_by_where_it_leads(folder):
    (folder / "of-all").mkdir()
    (folder / "of-all").chmod(0o777)
    (folder / "link").symlink_to(folder / "of-all")
    with pytest.raises(BadFile, match="others may write"), private_socket(folder / "link" / "s"):
        pass


def test_links_of_ones_own_may_stand_on_the_way_and_lead_anywhere(folder):
    """As /tmp and /var/run may be links of the system's."""
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "up").symlink_to("a/b/..")
    (folder / "over").symlink_to(folder / "up" / "b")
    with private_socket(folder / "over" / "s"), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(folder / "over" / "s"))
        assert (folder / "a" / "b" / "s").is_socket()
    assert list((folder / "a" / "b").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give links away")
@pytest.mark.parametrize("mode", [0o700, 0o1777])
def test_a_link_that_another_may_turn_is_refused_wherever_it_leads_now(folder, mode):
    """In a directory that is as /tmp is, anybody may have put it there."""
    (folder / "mine").mkdir()
    (folder / "of-all").mkdir()
    (folder / "of-all").chmod(mode)
    (folder / "of-all" / "link").symlink_to(folder / "mine")
    os.lchown(folder / "of-all" / "link", 12345, 12345)
    with (
        pytest.raises(BadFile, match="a link of user 12345; expected one of this process's own"),
        private_socket(folder / "of-all" / "link" / "s"),
    ):
        pass


def test_a_link_in_a_directory_in_which_others_may_write_is_refused_wherever_it_leads_now(folder):
    (folder / "mine").mkdir()
    (folder / "of-all").mkdir()
    (folder / "of-all" / "link").symlink_to(folder / "mine")
    (folder / "link").symlink_to("of-all/link")
    (folder / "of-all").chmod(0o777)
    for way in ("of-all/link/s", "link/s", "of-all/../mine/s"):
        with pytest.raises(BadFile, match=r"of-all: found a directory in which others"), private_socket(folder / way):
            pass


def test_a_link_that_is_turned_after_the_look_does_not_move_the_socket(folder, monkeypatch):
    for name in ("mine", "other"):
        (folder / name).mkdir()
    (folder / "link").symlink_to(folder / "mine")
    clear = daemon_socket._clear

    def turn(path):
        clear(path)
        (folder / "link").unlink()
        (folder / "link").symlink_to(folder / "other")

    monkeypatch.setattr(daemon_socket, "_clear", turn)
    with private_socket(folder / "link" / "s"):
        assert (folder / "mine" / "s").is_socket()
    assert list((folder / "mine").iterdir()) == list((folder / "other").iterdir()) == []


@pytest.mark.parametrize("target", [".", "../of-all", "inside/.."])
def test_wherever_a_path_ends_it_is_looked_at(folder, target):
    (folder / "of-all" / "inside").mkdir(parents=True)
    (folder / "of-all" / "link").symlink_to(target)
    (folder / "of-all").chmod(0o1777)
    with pytest.raises(BadFile, match="others may write, mode 1777"), private_socket(folder / "of-all" / "link" / "s"):
        pass


def test_links_without_end_and_files_on_the_way_are_no_directory(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()
    for name, found in (("loop", "too many levels of symbolic links"), ("file", "not a directory")):
        with pytest.raises(BadFile, match=rf"no directory \({found}\)"), private_socket(folder / name / "s"):
            pass


def test_no_directory_and_too_long_a_path_are_named(folder):
    with (
        pytest.raises(BadFile, match=r"no directory \(no such file or directory\).*mkdir -m 700"),
        private_socket(folder / "none" / "s"),
    ):
        pass
    with pytest.raises(BadFile, match=r"bytes; expected at most 107"), private_socket(folder / ("x" * 120)):
        pass


def test_a_lock_that_another_holds_is_not_waited_for_for_ever(folder, monkeypatch):
    monkeypatch.setattr(daemon_socket, "_LOCK_SECONDS", 0.2)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(BadFile, match="a lock that another process has held"), private_socket(folder / "s"):
            pass
        assert list(folder.iterdir()) == []
    finally:
        os.close(descriptor)
    with private_socket(folder / "s"):
        pass

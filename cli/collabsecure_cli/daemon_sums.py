"""A daemon's part in a session of sums: the node, what it tells its owner, and values that the owner alone gives.

With a folder for them, no program that reaches the socket has a say in the values, or learns from an answer whether
some are the same as others: of a sum whose file is missing or refused, the coordinating end hears that it has to wait.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from safetensors import SafetensorError, safe_open

from collabsecure.errors import said
from collabsecure.files import in_words
from collabsecure.integrations.exchange import Refused, Wait, decode_reply, encode
from collabsecure.integrations.host import ValuesNeeded
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.telling import Telling
from collabsecure_cli.daemon_socket import own_directory
from collabsecure_protocols import ValueRefused
from collabsecure_protocols.client_state import NO_LINK

LINK = "link"  # in a file's metadata: 64 hex digits
_MOST_TOLD = 100  # different refusals, so that who asks cannot fill a disk with them
_LONGEST_REFUSAL = 4096  # bytes of a reply


class DaemonOfSums:
    """Answers as its node does. With a folder, a sum's values come from `FOLDER/<name, percent-encoded>.safetensors`.

    A file is read once its sum wants it, and never again when all of it was taken: put it there whole, by renaming.

    Raises:
        BadFile: others may write in the folder.
    """

    def __init__(self, node: SumNode, tell: Callable[[str], None], *, folder: Path | None = None) -> None:
        self._node, self._tell = node, tell
        self._folder = None if folder is None else own_directory(folder)
        self._refused: dict[str, object] = {}  # sum → what tells the refused file from the one in its place
        self._noted: dict[str, str] = {}  # sum → the last that was told of its file
        self.tell_of_refusals = Telling(tell, most=_MOST_TOLD)

    @property
    def takes_values_of(self) -> SumNode | None:
        """The node to which the app may give values."""
        return self._node if self._folder is None else None

    def answer(self, request: bytes) -> bytes:
        """The reply to a request.

        Raises:
            ValuesNeeded: give these first; never, if there is a folder for them.
            BadExchange: it is no request.
            BadFile: the disk would not take what must be kept; nothing has left.
        """
        try:
            reply = self._node.answer(request)
        except ValuesNeeded as needed:
            if self._folder is None:
                raise
            reply = self._node.answer(request) if self._gave(needed.sum_name, self._folder) else encode(Wait())
        if len(reply) <= _LONGEST_REFUSAL and isinstance(found := decode_reply(reply), Refused):
            self.tell_of_refusals(f"Refused what was asked: {found.reason}")
        return reply

    def _gave(self, sum_name: str, folder: Path) -> bool:
        path = folder / f"{quote(sum_name, safe='')}.safetensors"
        try:
            with _reading():
                found = path.stat()
            mark = found.st_ino, found.st_size, found.st_mtime_ns
            if self._refused.get(sum_name) == mark:
                return False
            self._refused[sum_name] = mark
            self._give(sum_name, path)
        except FileNotFoundError:
            self._note(sum_name, f"Sum {said(sum_name)} wants values; waiting for {path}")
            return False
        except (_Unfit, ValueRefused) as error:
            self._note(sum_name, f"{path}: {error}. Put another file in its place")
            return False
        self._note(sum_name, f"Took the values of sum {said(sum_name)} from {path}")
        return True

    def _note(self, sum_name: str, words: str) -> None:
        if self._noted.get(sum_name) != words:
            self._noted[sum_name] = words
            self._tell(words)

    def _give(self, sum_name: str, path: Path) -> None:
        with _reading():
            opened = safe_open(path, framework="numpy")
        with opened as file:
            link = _link((file.metadata() or {}).get(LINK))
            names = [
                tensor.name for spec in self._node.session.sums if spec.name == sum_name for tensor in spec.tensors
            ]
            if {*names} != {*file.keys()}:
                raise _Unfit(f"found arrays {_list(file.keys())}; expected {_list(names)}")
            for name in names:  # one after the other: all of them may be much
                with _reading():
                    values = file.get_tensor(name)
                self._node.put(sum_name, name, values, link=link)


class _Unfit(Exception):
    """A file that holds no values for its sum."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unfit(f"found {in_words(error)}; expected a file that can be read") from error
    except (SafetensorError, TypeError) as error:  # the latter of numbers that NumPy has not, such as bfloat16
        raise _Unfit(f"found no intact safetensors of NumPy's numbers ({error})") from error


def _link(text: str | None) -> bytes:
    try:
        link = NO_LINK if text is None else bytes.fromhex(text)
    except ValueError:
        link = b""
    if len(link) != len(NO_LINK):
        raise _Unfit(f"found metadata {LINK}: {text!r}; expected 64 hex digits")
    return link


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"

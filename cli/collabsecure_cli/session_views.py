"""What lies on an aggregator's disk, as views to attack: its state folder, read and not touched.

In a state folder are, at different times, masked or encrypted uploads of the running sum (until all are in and a
snapshot has their total), the sum that finished last (until the next begins; the last layer's stays), and the update of
every finished layer. None of it needs the aggregator's key: whoever has the folder and the session file can go through
all that happened. A sum that is not unmasked cannot be read by anyone, and one that is encrypted is not there.

An aggregator that keeps more than it needs has more: every upload of every sum (`attacks.cases.masking.aggregated`).
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from collabsecure.agreement import Agreement
from collabsecure.attacks.views import AggregatorState, EncryptedUpload, MaskedUpload, PublishedDelta, SumOnly, Upload
from collabsecure.errors import BadFile
from collabsecure.files import unreadable
from collabsecure.sessions import cross_name, gram_name, layer_of
from collabsecure.statistics import Statistics
from collabsecure_cli.aggregator import Aggregator
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.results import Results
from collabsecure_cli.uploads import StagedUpload, boundaries
from collabsecure_protocols import ClientId, Identity, ProtocolError, ServerState, Session
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, MessageType, open_envelope
from collabsecure_protocols.wire import Reader

_RESULTS = "results"
_STAGED = "a client's masked input, message after message as it was signed"


def read_state(session: Session, path: Path) -> AggregatorState:
    """The views in an aggregator's state folder.

    The folder is copied first, which takes as much disk as it has, in the folder for temporary files; it is neither
    changed nor locked. If its aggregator is at work meanwhile, the copy may be torn, which is found; copy it yourself
    while the aggregator is stopped.

    Raises:
        BadFile: it is no aggregator's folder of this session, or is damaged or torn.
    """
    if not any(path.glob("steps-*")):
        raise BadFile(path, found="no record of a session's steps", expected="an aggregator's state folder")
    with _copy(path) as folder:
        # Before the engine starts and forgets those that are in its sum.
        uploads = _uploads(session, folder, copy_of=path)
        with StateFolder.opened(folder) as opened:
            results = Results(session, Agreement.of(session), opened.folder(_RESULTS))
            with _engine(session, path, opened, results) as engine:
                summed = None if session.is_encrypted else _finished_sum(session, engine)
            published = {layer: results.load(layer) for layer in results.digests}
    return AggregatorState(
        uploads=uploads, summed=summed, published=PublishedDelta(layers=published) if published else None
    )


class _PublicIdentity(Identity):
    """The aggregator's name without its key: what it signs is signed by nobody, and no client will ever see it."""

    __slots__ = ()

    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, message: bytes) -> bytes:
        """Sixty-four bytes."""
        return bytes(64)


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="collabsecure-") as temporary:
        copy = Path(temporary) / "state"
        try:
            shutil.copytree(path, copy)
        except (OSError, shutil.Error) as error:
            raise unreadable(path, error if isinstance(error, OSError) else OSError(str(error))) from error
        yield copy


@contextmanager
def _engine(session: Session, path: Path, folder: StateFolder, results: Results) -> Iterator[Aggregator]:
    """The aggregator as it would go on from a folder."""
    try:
        engine = Aggregator(session, _PublicIdentity(session.server_key), folder, results)
    except ProtocolError as error:  # a damaged snapshot, or steps that do not follow from it
        raise BadFile(path, found=str(error), expected="the state of this session's aggregator") from error
    with closing(engine):
        yield engine


def _uploads(session: Session, folder: Path, *, copy_of: Path) -> dict[int, Upload]:
    """What clients have uploaded to the sum that runs; partly, if a tensor of it is there."""
    found: dict[int, Upload] = {}
    kind = EncryptedUpload if session.is_encrypted else MaskedUpload
    for path in sorted(folder.glob("upload-*-*")):
        numbers = re.fullmatch(r"upload-(\d{1,5})-(\d{1,5})", path.name, re.ASCII)
        index, client = (int(numbers[1]), int(numbers[2])) if numbers else (-1, -1)
        if not (0 <= index < len(session.sums) and 0 < client <= session.num_clients):
            continue
        try:
            upload = kind.read(session, _checked(session, index, client, path))
        except (ProtocolError, _Damaged) as error:
            raise BadFile(copy_of / path.name, found=str(error), expected=_STAGED) from error
        if upload.words:
            found[client] = upload
    return found


class _Damaged(Exception):
    """A message that is sound, and not the one that should be there."""


def _checked(session: Session, index: int, client: int, path: Path) -> Iterator[bytes]:
    """The messages in an upload's file, which must be the client's, of this sum, and in order."""
    for number, message in enumerate(StagedUpload(path, boundaries(session, index)).read()):
        envelope = open_envelope(session, message, ClientId(client))
        envelope.verify(session)
        header = Reader(envelope.body[:CHUNK_HEADER_BYTES])
        if envelope.type is not MessageType.MASKED_INPUT or (header.u16(), header.u32()) != (index, number):
            raise _Damaged(f"another message where chunk {number} of sum {index} is next")
        yield message


def _finished_sum(session: Session, engine: Aggregator) -> SumOnly | None:
    if engine.state not in (ServerState.READY, ServerState.FINISHED) or engine.sum_index < 0:
        return None
    layers = sorted({layer_of(tensor.name) for tensor in session.sums[engine.sum_index].tensors})
    return SumOnly(
        layers={
            layer: Statistics(gram=engine.decode(gram_name(layer)), cross=engine.decode(cross_name(layer)))
            for layer in layers
        },
        survivors=engine.survivors,
    )

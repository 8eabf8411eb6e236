"""What tests of whole processes share: one zygote and one set of parties for each worker."""

import fcntl
import sys
import tempfile
from pathlib import Path

import pytest
from encrypted import make_encrypted
from parties import Parties, make_parties
from processes import Zygote

sys.path.append(str(Path(__file__).parents[1] / "integrations"))  # what engines' tests have for both ends


@pytest.fixture
def socket_folder():
    """Nobody else's, and with a path short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="s") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def parties(zygote, tmp_path_factory, request):
    """Made once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        base = base.parent
    folder = base / "parties"
    folder.mkdir(exist_ok=True)
    with (base / "parties.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            make_parties(folder, zygote)
            (folder / "complete").touch()
    return Parties(folder=folder, zygote=zygote)


@pytest.fixture(scope="session")
def encrypted_parties(parties):
    """The same with a key holder."""
    pytest.importorskip("tenseal", reason="encryption is of the extra ckks")
    return make_encrypted(parties)

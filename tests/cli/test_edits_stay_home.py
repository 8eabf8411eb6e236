"""Nothing of one client's edits leaves its state folder in a form that anybody could read, but in sums over all.

What is looked for is every stretch of 24 bytes of a client's plain numbers (as float64, as float32, as the fixed-point
integers that travel), and every text of its requests, also in JSON's, base64's and hexadecimal form.
"""

import base64
import json

import numpy as np
import pytest
from crashes import AFTER, Crash
from parties import free_port, running
from proxy import Records, proxy

from collabsecure_cli.session import load_session

_TABLE = 1 << 25
LEAST_TEXT = 5  # bytes: shorter ones come up in noise


class Needles:
    """A client's plain data in every form, to be looked for in bytes."""

    def __init__(self, statistics, texts, session):
        self.texts = {form for text in texts for form in _forms(text)}
        windows = []
        for name, matrix in statistics.items():
            windows += [_windows(matrix.astype("<f8").tobytes(), 8), _windows(matrix.astype("<f4").tobytes(), 4)]
            if (packed := _packed(session, name, matrix)) is not None:
                windows.append(_windows(packed, 6))
        self._keys = np.sort(np.concatenate(windows))
        self._known = np.zeros(_TABLE, bool)  # most of what is not looked for is told apart by its lowest bits
        self._known[self._keys & (_TABLE - 1)] = True

    def texts_in(self, data):
        return sorted(text for text in self.texts if text in data)

    def numbers_in(self, data):
        """How many windows of plain numbers are somewhere in the bytes."""
        count = 0
        for shift in range(8):
            words = np.frombuffer(bytes(shift) + data, "<u8", (len(data) + shift) // 8)
            keys = _key(words[:-1], words[1:])
            maybe = keys[self._known[keys & (_TABLE - 1)]]
            places = np.minimum(np.searchsorted(self._keys, maybe), len(self._keys) - 1)
            count += int((self._keys[places] == maybe).sum())
        return count


def _windows(data, step):
    """Every 16 bytes, a value's bytes apart, unless they say next to nothing: such ones are found anywhere.

    Any 24 bytes that values of 4, 6 or 8 bytes leave have one of these windows in them.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), 16)[::step]
    telling = ((windows != 0) & (windows != 0xFF)).sum(axis=1, dtype=np.uint8) >= 6
    words = np.ascontiguousarray(windows[telling]).view("<u8")
    words = words[words[:, 0] != words[:, 1]]
    return _key(words[:, 0], words[:, 1])


def _key(first, second):
    """16 bytes as 8, by which no two of this test's are confused."""
    return first * np.uint64(0x9E3779B97F4A7C15) ^ (second + np.uint64(0x7F4A7C15)) * np.uint64(0xC2B2AE3D27D4EB4F)


def _packed(session, name, matrix):
    """A tensor as it would travel without masks: by hand, not with the code that does it."""
    found = [tensor for spec in session.sums for tensor in spec.tensors if tensor.name == name]
    if not found:
        return None
    (tensor,) = found
    rows = np.array(tensor.row_exponents or [0] * len(matrix))
    columns = rows if tensor.symmetric else np.array(tensor.column_exponents)
    scaled = matrix * 2.0 ** (rows[:, None] + columns[None, :] + tensor.fraction_bits)
    if tensor.symmetric:
        scaled = scaled[np.triu_indices(len(matrix))]
    return np.rint(scaled).astype("<i8").ravel().view(np.uint8).reshape(-1, 8)[:, :6].tobytes()


def _forms(text):
    plain = text.encode()
    yield plain
    yield json.dumps(text)[1:-1].encode()
    yield plain.hex().encode()
    for shift in range(3):  # base64 of it, wherever among other bytes it starts
        coded = base64.b64encode(bytes(shift) + plain)
        inside = coded[-(-shift * 8 // 6) : len(coded) - 4]
        if len(inside) >= 2 * LEAST_TEXT:
            yield inside


def texts_of(records):
    for record in records:
        rewrite = record["requested_rewrite"]
        yield rewrite["subject"]
        yield rewrite["prompt"]
        yield rewrite["prompt"].format(rewrite["subject"])
        for target in (rewrite["target_new"]["str"], rewrite["target_true"]["str"]):
            yield target if len(target.encode()) >= LEAST_TEXT else f" {target}"


@pytest.fixture(scope="module")
def needles(parties, tmp_path_factory):
    """By client, what must not be found; for a session of three."""
    out = tmp_path_factory.mktemp("plain")
    arguments = (parties.folder, parties.session("three"), out, "statistics")
    parties.zygote.run("simulated", arguments, folder=out, program="simulated")
    session = load_session(parties.session("three"))
    found = {}
    for name in parties.names("three"):
        with np.load(out / f"{name}.npz") as file:
            statistics = {tensor: file[tensor] for tensor in file.files}
        records = json.loads(parties.edits(name).read_text())
        others = {
            text
            for other in parties.names("three")
            if other != name
            for text in texts_of(json.loads(parties.edits(other).read_text()))
        }
        found[name] = Needles(statistics, set(texts_of(records)) - others, session)
    return found


def contents(folder, but=()):
    """All that is in a folder, file by file, but for some folders in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(each) for each in but):
            yield path.relative_to(folder), path.read_bytes()


def test_nothing_of_a_clients_edits_is_anywhere_but_in_its_own_state_folder(parties, tmp_path, needles):
    port, faults = free_port(), Records()
    with (
        proxy(port, faults) as between,
        running(parties, "three", tmp_path / "run", port=port, through=between, tls=False) as run,
    ):
        aggregator = run.aggregate()
        # Killed in the middle of its last upload, so that its statistics can be looked for in its own folder.
        clients = run.all_clients(alice=Crash(call="upload", name="1", number=2, when=AFTER, until=-1))
        assert clients["alice"].wait() == -9
        own = {name: b"".join(data for _, data in contents(run.state(name))) for name in run.names}
        assert needles["alice"].numbers_in(own["alice"]) > 100_000
        clients["alice"] = run.client("alice")
        run.finish(aggregator, clients)
        run.check(*clients)
        assert sum(map(len, faults.up.values())) > 3 * 2 * 1_180_000
        for name, plain in needles.items():
            state = run.state(name)
            kept = b"".join(data for _, data in contents(state))
            assert plain.numbers_in(kept) > 100, "its values are in its own folder"
            assert not plain.texts_in(kept), "not even its own folder needs its texts"
            for place, data in (*contents(run.folder, but=[state]), *faults.up.items()):
                assert not plain.texts_in(data), (name, place)
                assert not plain.numbers_in(data), (name, place)


def test_an_upload_whose_masks_were_taken_off_would_be_found(parties, tmp_path, needles):
    port, faults = free_port(), Records()
    with (
        proxy(port, faults) as between,
        running(parties, "three", tmp_path / "run", port=port, through=between, tls=False) as run,
    ):
        run.aggregate()
        for name in run.names:
            bare = name == "alice"
            run.client(name, crash=Crash(call="post", number=3), without_masks=bare)
        for process in run.processes[1:]:
            assert process.wait() == -9
        received = b"".join(map(bytes, faults.up.values()))
        assert needles["alice"].numbers_in(received) > 10_000
        assert not needles["bob"].numbers_in(received)


@pytest.mark.parametrize("subject", ["Upper Yerlstead", "Zoë “Zed” Zürn"])
def test_texts_would_be_found_in_every_form(subject):
    for shift in range(5):
        before = "x" * shift
        for data in (
            f"{before}{subject}, {before}".encode(),
            json.dumps({"what": before + subject}).encode(),
            base64.b64encode(f"{before}{subject} and more".encode()),
            f"{before}{subject}".encode().hex().encode(),
        ):
            assert any(form in data for form in _forms(subject)), data

"""Values from their owner's folder: no program that reaches the socket gives any, or learns what is wrong with them."""

import re
from contextlib import closing, contextmanager
from textwrap import dedent

import numpy as np
import pytest
import torch
from coordinating import Coordinating
from memory_host import exact_sum, identity, made_session, made_values, stream
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from tutorial import DOCS

from collabsecure.errors import BadFile
from collabsecure.integrations.exchange import Messages, Ready, Refused, Shard, Wait, decode_reply, encode
from collabsecure.integrations.host import respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import Daemon
from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.stores import FolderStore, MemoryStore
from collabsecure_cli.daemon_api import DaemonApi, listening, longest_of_sums
from collabsecure_cli.daemon_sums import DaemonOfSums
from collabsecure_protocols import Policy, ValueRefused

LARGE = {"weights": Summand(shape=(200, 700), bound=4.0), "n": Summand(shape=(1,), bound=1e3)}  # of a few chunks
SESSION = made_session(3, {"a/b": LARGE, "two": LARGE})
OTHER = made_session(3, {"a/b": LARGE, "two": LARGE}, session_id=bytes(32))
CLIENTS = (1, 2, 3)
FILES = {"a/b": "a%2Fb.safetensors", "two": "two.safetensors"}


@pytest.fixture
def folder(socket_folder):
    """Of client 1's values."""
    (found := socket_folder / "values").mkdir(mode=0o700)
    return found


def side(folder, store=None, *, session=SESSION, tell=lambda _: None, start=""):
    node = SumNode(session, identity(1), policy=Policy(), store=store or MemoryStore(), rng=stream(f"1{start}"))
    return DaemonOfSums(node, tell, folder=folder)


def put(folder, sum_name="a/b", session=SESSION, metadata=None, **changes):
    values = {**made_values(session, 1, sum_name), **changes}
    save_file({name: array for name, array in values.items() if array is not None}, folder / "part", metadata)
    (folder / "part").rename(folder / FILES[sum_name])


def started(first, session=SESSION, *, link=bytes(32)):
    """A session in whose first sum client 1 has such a side, and the others have given their values."""
    others = {
        client: SumNode(session, identity(client), policy=Policy(), store=MemoryStore(), rng=stream(str(client)))
        for client in (2, 3)
    }
    room = Coordinating(session, {1: first, **others})
    room.set_up()
    room.start_sum(link=link)
    for client in others:
        room.give(client, link=link)
    return room


def finish(room, sum_index=0, clients=CLIENTS):
    for client in clients:
        room.deliver(room.hand_in(client, room.shard(client, sum_index)))


def is_exact(room, sum_name="a/b"):
    expected = exact_sum(room.session, CLIENTS, sum_name)
    return all(np.array_equal(room.server.decode(name), expected[name]) for name in expected)


@contextmanager
def daemon(path, answering):
    taking = answering.takes_values_of
    tell, longest = answering.tell_of_refusals, longest_of_sums(SESSION)
    with listening(path, DaemonApi(SESSION, answering, longest=longest, taking=taking, tell=tell).app):
        yield Daemon(path)


def test_sums_of_values_from_a_folder_are_exact_and_the_app_is_never_asked(socket_folder, folder):
    put(folder)
    put(folder, "two")

    class Shipped:
        def answer(self, request):
            return respond(relay, request, values=lambda name: pytest.fail(f"the app was asked for {name}"))

    with daemon(socket_folder / "s", side(folder)) as relay:
        room = started(Shipped())
        finish(room)
        assert is_exact(room)
        room.start_sum()
        for client in (2, 3):
            room.give(client, 1)
        finish(room, 1)
        assert is_exact(room, "two")


def test_whatever_an_app_gives_it_gets_one_answer_at_any_time(socket_folder, folder):
    store, said, told = MemoryStore(), set(), []
    with daemon(socket_folder / "s", side(folder, store, tell=told.append)) as relay:

        def give():
            before = dict(store._files)
            for name, client in (("a/b", 1), ("a/b", 2), ("two", 1)):
                values = made_values(SESSION, client, name)
                for arrays in (values, {"weights": values["weights"][:1]}, {"strange": np.full(3, np.nan)}):
                    with pytest.raises(ValueRefused) as refusal:
                        relay.give(name, arrays)
                    said.add(str(refusal.value).partition(": ")[2])
            assert store._files == before

        room = started(relay)
        give()
        assert room.shard(1) == Wait()
        put(folder)
        give()
        assert isinstance(room.shard(1, count=1), Ready)
        give()
        finish(room)
        give()
    assert said == {"found values; expected none: here they come from this node's owner alone"}
    assert told.count(f"Refused values from the app: {said.pop()}") == 1
    assert is_exact(room)


def test_an_owner_is_told_once_why_values_of_the_app_are_refused(socket_folder):
    told = []
    with daemon(socket_folder / "s", side(None, tell=told.append)) as relay:
        for _ in range(2):
            for weights in (np.full((200, 700), np.nan), np.zeros((700, 200))):
                with pytest.raises(ValueRefused):
                    relay.give("two", {"weights": weights})
    assert told == [
        "Refused values for sum two from the app: tensor 'weights': V32: entry (0, 0) is not a finite number",
        "Refused values for sum two from the app: tensor 'weights': expected shape (200, 700), found (700, 200)",
    ]


def test_a_file_that_is_not_there_yet_is_waited_for_and_its_owner_told_once(folder):
    told = []
    room = started(side(folder, tell=told.append))
    for _ in range(3):
        assert room.shard(1) == room.shard(1, count=0) == Wait()
    assert told == [f"Sum a/b wants values; waiting for {folder / FILES['a/b']}"]
    put(folder)
    finish(room)
    assert told[1:] == [f"Took the values of sum a/b from {folder / FILES['a/b']}"]
    assert is_exact(room)


def cut(folder):
    put(folder)
    whole = (folder / FILES["a/b"]).read_bytes()
    (folder / FILES["a/b"]).write_bytes(whole[: len(whole) // 2])


UNFIT = {
    "cut": (cut, "no intact safetensors"),
    "empty": (lambda folder: (folder / FILES["a/b"]).touch(), "no intact safetensors"),
    "a folder": (lambda folder: (folder / FILES["a/b"]).mkdir(), "expected a file that can be read"),
    "an array too few": (lambda folder: put(folder, n=None), "found arrays weights; expected n, weights"),
    "one too many": (lambda folder: put(folder, x=np.zeros(1)), "found arrays n, weights, x; expected n, weights"),
    "another shape": (lambda folder: put(folder, n=np.zeros(2)), "tensor 'n': expected shape"),
    "not a number": (lambda folder: put(folder, n=np.array([np.nan])), "tensor 'n'"),
    "too large": (lambda folder: put(folder, n=np.array([1001.0])), "tensor 'n'"),
    "no link": (lambda folder: put(folder, metadata={"link": "abc"}), "found metadata link: 'abc'; expected 64 hex"),
    "bfloat16": (
        lambda folder: save_tensors(
            {"n": torch.zeros(1, dtype=torch.bfloat16), "weights": torch.zeros(200, 700)}, folder / FILES["a/b"]
        ),
        "of NumPy's numbers",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_file_that_is_unfit_is_told_to_its_owner_alone_and_another_taken_in_its_place(folder, case):
    make, why = UNFIT[case]
    told = []
    room = started(side(folder, tell=told.append))
    make(folder)
    for _ in range(3):
        assert room.shard(1) == Wait()
    (words,) = told
    assert why in words
    assert words.endswith("Put another file in its place")
    if case == "a folder":
        (folder / FILES["a/b"]).rmdir()
    put(folder)
    finish(room)
    assert is_exact(room)


def test_values_that_another_session_opened_are_refused_and_nobody_but_the_owner_hears(folder):
    store, told = MemoryStore(), []
    put(folder)
    room = started(side(folder, store))
    finish(room)
    again = started(side(folder, store, session=OTHER, tell=told.append), OTHER)
    assert again.shard(1) == Wait()
    assert "V34" in told[0]
    assert len(told) == 1
    fresh = made_values(OTHER, 1, "a/b")["n"] / 2
    put(folder, n=fresh)
    finish(again)
    expected = exact_sum(OTHER, CLIENTS, "a/b")["n"] - made_values(OTHER, 1, "a/b")["n"] + fresh
    np.testing.assert_allclose(again.server.decode("n"), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("link", [b"m" * 32, b"n" * 32])
def test_a_file_may_say_what_its_values_follow(folder, link):
    put(folder, metadata={"link": (b"m" * 32).hex()})
    reply = started(side(folder), link=link).shard(1)
    assert isinstance(reply, Ready if link == b"m" * 32 else Refused)


def test_restarted_at_every_request_it_gives_the_same_bytes_and_needs_the_file_once(socket_folder, folder):
    """Once a chunk has left, the file may be gone, or another in its place."""

    class Restarted:
        starts = 0

        def answer(self, request):
            Restarted.starts += 1
            with closing(FolderStore(socket_folder / "state")) as store:
                return side(folder, store, start=str(Restarted.starts)).answer(request)

    put(folder)
    room = started(Restarted())
    replies = [room.shard(1, first=number, count=1) for number in range(SESSION.sums[0].num_chunks)]
    put(folder, n=np.array([1.0]))
    assert [room.shard(1, first=number, count=1) for number in range(len(replies))] == replies
    (folder / FILES["a/b"]).unlink()
    finish(room)
    assert is_exact(room)


@pytest.mark.parametrize("mode", [0o770, 0o1777])
def test_a_folder_in_which_others_may_write_is_refused(folder, mode):
    folder.chmod(mode)
    with pytest.raises(BadFile, match="others may write"):
        side(folder)


def test_a_disk_that_is_full_is_no_fault_of_the_file(folder):
    class Full(MemoryStore):
        def write(self, name, parts):
            if name.count("-") == 3:  # values
                raise BadFile(name, found="no space", expected="some")
            super().write(name, parts)

    put(folder)
    room = started(side(folder, Full()))
    with pytest.raises(BadFile, match="no space"):
        room.shard(1)


def test_what_is_refused_is_told_once_in_printable_words_and_not_without_end():
    told = []
    here = side(None, tell=told.append)
    assert here.takes_values_of is not None

    def ask(request):
        return decode_reply(here.answer(encode(request)))

    for number in range(2000):
        assert isinstance(ask(Shard(transcript=SESSION.transcript, sum_index=number // 2, first=0, count=1)), Refused)
    assert isinstance(ask(Messages(transcript=SESSION.transcript, first=9, payloads=(b"\x1b[2J" * 1000,))), Refused)
    assert isinstance(ask(Shard(transcript=bytes(32), sum_index=0, first=0, count=1)), Refused)
    assert len(told) == len(set(told)) == 100
    assert all(words.isprintable() and words.startswith("Refused what was asked: ") for words in told)


@pytest.mark.parametrize("link", [None, b"m" * 32], ids=["no link", "a link"])
def test_the_page_says_how_an_owner_gives_values(folder, monkeypatch, link):
    page = (DOCS / "embedding.md").read_text()
    (block,) = re.findall(r"\n((?:    .*\n|\n)*    save_file\(.*\n(?:    .*\n)+)", page)
    (metadata,) = re.findall(r"`(metadata=.*?)`", page)
    if link is not None:
        block = block.replace('"values/part")', f'"values/part", {metadata})')
        assert metadata in block
    session = made_session(3)
    room = started(side(folder, session=session), session, link=link or bytes(32))
    assert room.shard(1) == Wait()
    monkeypatch.chdir(folder.parent)
    exec(dedent(block), {**made_values(session, 1, "round 1"), "link": link})
    assert isinstance(room.shard(1), Ready)

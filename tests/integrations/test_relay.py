"""The relay gives a daemon's answers as they are, and says what is wrong when there is none."""

import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from coordinating import Coordinating
from memory_host import exact_sum, identity, made_session, made_values

from collabsecure.integrations.exchange import BadExchange, Hello, Ready, Shard, decode_reply, encode
from collabsecure.integrations.host import Answering, ValuesNeeded, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import LINK_HEADER, SHAPE_HEADER, Daemon, NoDaemon
from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.stores import MemoryStore
from collabsecure_protocols import Policy, ProtocolError, Session, ValueRefused
from collabsecure_protocols.client_state import NO_LINK

NAME = "round 1/ä?"  # what a URL has other ideas about
SESSION = made_session(sums={NAME: {"w/1": Summand(shape=(2, 3), bound=2.0), "n": Summand(shape=(1,), bound=9.0)}})


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def listening(path: Path, answer: SumNode | bytes) -> Iterator[Daemon]:
    """What a daemon is to the relay, around a node; or somebody who says the same to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if isinstance(answer, bytes):
                self.say(418, answer)
                return
            try:
                self.say(200, answer.answer(body))
            except ValuesNeeded as needed:
                self.say(428, json.dumps({"sum": needed.sum_name}).encode())
            except BadExchange as error:
                self.say(400, json.dumps({"error": str(error)}).encode())

        def do_PUT(self) -> None:
            assert isinstance(answer, SumNode)
            shape = tuple(map(int, self.headers[SHAPE_HEADER].split(",")))
            values = np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), "<f8").reshape(shape)
            sum_name, tensor = map(unquote, self.path.removeprefix("/values/").split("/"))
            link = bytes.fromhex(self.headers.get(LINK_HEADER, NO_LINK.hex()))
            try:
                self.say(200, json.dumps({"missing": answer.put(sum_name, tensor, values, link=link)}).encode())
            except ProtocolError as error:
                self.say(422, json.dumps({"error": str(error)}).encode())

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "a socket"

    with _Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Daemon(path)
        finally:
            server.shutdown()
            thread.join()


def node(client: int, session: Session = SESSION) -> SumNode:
    return SumNode(session, identity(client), policy=Policy(), store=MemoryStore(), rng=os.urandom)


class Relayed:
    """A node that is reached through the relay alone."""

    def __init__(self, daemon: Daemon, client: int) -> None:
        self.daemon, self.client = daemon, client

    def answer(self, request: bytes) -> bytes:
        return respond(self.daemon, request, lambda name: made_values(SESSION, self.client, name))

    def give(self, sum_name, values, *, link=NO_LINK) -> None:
        self.daemon.give(sum_name, values, link=link)


def test_a_sum_through_a_socket_is_the_sum(tmp_path: Path) -> None:
    others = {client: node(client) for client in (2, 3, 4)}
    with listening(tmp_path / "s", node(1)) as daemon:
        assert isinstance(daemon, Answering)
        room = Coordinating(SESSION, {1: Relayed(daemon, 1), **others})
        room.set_up()
        room.start_sum()
        room.deliver(room.hand_in(1, room.shard(1)))
        for client in others:
            room.upload(client)
    for name, array in exact_sum(SESSION, (1, 2, 3, 4), NAME).items():
        np.testing.assert_array_equal(room.server.decode(name), array)


def test_values_and_their_link_arrive_as_float64_whatever_they_were(tmp_path: Path) -> None:
    with listening(tmp_path / "s", node(1)) as daemon:
        room = Coordinating(SESSION, {1: Relayed(daemon, 1), **{client: node(client) for client in (2, 3, 4)}})
        room.set_up()
        room.start_sum(link=b"m" * 32)
        values = made_values(SESSION, 1, NAME)
        strided = np.asfortranarray(values["w/1"]).astype(np.float32)
        daemon.give(NAME, {"w/1": strided, "n": np.array([3])}, link=b"m" * 32)
        assert isinstance(room.shard(1), Ready)


def test_refusals_come_back_with_the_arrays_name(tmp_path: Path) -> None:
    with listening(tmp_path / "s", node(1)) as daemon:
        for values, tensor, reason in (
            ({"w/1": np.full((2, 3), 9.0)}, "w/1", "times the session's bound"),
            ({"w/1": np.zeros((2, 3))}, "n", "not given"),
            ({"x": np.zeros(2)}, "x", "not in sum"),
            ({"n": np.array(["9"])}, "n", "real numbers"),
            ({"w/1": np.zeros((3, 2))}, "w/1", "expected shape"),
        ):
            with pytest.raises(ValueRefused, match=reason) as refused:
                daemon.give(NAME, values)
            assert refused.value.tensor == tensor
            assert str(refused.value).count("tensor") == 1


def test_values_needed_and_bad_requests_come_back_as_such(tmp_path: Path) -> None:
    with listening(tmp_path / "s", node(1)) as daemon:
        assert decode_reply(daemon.answer(encode(Hello(transcript=SESSION.transcript)))) == Ready(payloads=(b"\0\1",))
        with pytest.raises(BadExchange, match="refuses the request"):
            daemon.answer(b"anything")
        room = Coordinating(SESSION, {1: daemon, **{client: node(client) for client in (2, 3, 4)}})
        room.set_up()
        room.start_sum()
        with pytest.raises(ValuesNeeded) as needed:
            room.shard(1)
        assert needed.value.sum_name == NAME
        request = encode(Shard(transcript=SESSION.transcript, sum_index=0, first=0, count=1))
        with pytest.raises(TypeError, match="found NoneType; expected a mapping of array names"):
            respond(daemon, request, lambda _: None)  # type: ignore[arg-type,return-value]


def test_no_daemon_and_another_program_are_said_to_be_that(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="found no daemon"):
        Daemon(tmp_path / "nothing").answer(b"")
    with listening(tmp_path / "s", b"I am a teapot") as daemon, pytest.raises(NoDaemon, match="teapot"):
        daemon.answer(b"")
    with pytest.raises(NoDaemon, match="found no daemon"):
        Daemon(tmp_path / ("x" * 200)).answer(b"")


def test_nothing_is_sent_to_another_users_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    with listening(tmp_path / "s", node(1)) as daemon:
        request = encode(Hello(transcript=SESSION.transcript))
        assert decode_reply(daemon.answer(request)) == Ready(payloads=(b"\0\1",))
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(NoDaemon, match=f"user {me} listens there, and this app is user {me + 1}.*same user"):
            daemon.answer(request)

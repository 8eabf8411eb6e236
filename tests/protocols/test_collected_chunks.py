"""A host that collects a client's chunks before it adds them: checked when they come, added when all are there."""

import numpy as np
import pytest
from harness import LENIENT, identity, make_session, seeded, tensor

from collabsecure_protocols import Client, NeedInput, RemoteProtocolError, SendToClient, SendToServer, Server
from collabsecure_protocols.tensors import CHUNK_VALUES

SESSION = make_session(3, 1, tensors=[tensor("x", (2 * CHUNK_VALUES + 5,), n=3)])
VALUES = {"x": np.linspace(-1, 1, 2 * CHUNK_VALUES + 5)}


@pytest.fixture
def waiting():
    """A server that waits for masked input, and every client's chunks."""
    server = Server(SESSION, identity("server"))
    clients = {
        number: Client(SESSION, identity(number), policy=LENIENT, rng=seeded(f"client {number}"))
        for number in SESSION.client_ids
    }
    queue = [(number, event) for number, client in clients.items() for event in client.start()]
    chunks = {}
    while queue:
        number, event = queue.pop(0)
        if isinstance(event, SendToServer):
            replies = server.receive(number, event.payload)
            replies += server.start_sum() if server.participants and not chunks and not server.missing else ()
            for reply in replies:
                if isinstance(reply, SendToClient):
                    queue += [(reply.client_id, event) for event in clients[reply.client_id].receive(reply.payload)]
        if isinstance(event, NeedInput):
            chunks[number] = [bytes(chunk) for chunk in clients[number].masked_input(VALUES)]
    return server, chunks


def test_chunks_that_pass_are_taken_later_and_change_nothing_before(waiting):
    server, chunks = waiting
    before = server.save()
    for number, of_client in chunks.items():
        for index, chunk in enumerate(of_client):
            server.check_chunk(number, chunk, index=index)
    assert server.save() == before
    for number, of_client in chunks.items():
        for chunk in of_client:
            server.receive(number, chunk)
    assert server.survivors == (1, 2, 3)


@pytest.mark.parametrize(
    ("check", "client", "index", "spoil"),
    [
        ("V22", 1, 1, lambda chunk: chunk),
        ("V05", 2, 0, lambda chunk: chunk),
        ("V06", 1, 0, lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1])),
        ("V06", 1, 0, lambda chunk: chunk[:100] + bytes([chunk[100] ^ 1]) + chunk[101:]),
        ("V02", 1, 0, lambda chunk: chunk[:50]),
        ("V03", 1, 0, lambda chunk: chunk[:4] + bytes(32) + chunk[36:]),
    ],
)
def test_what_receive_would_refuse_is_refused_at_once(waiting, check, client, index, spoil):
    server, chunks = waiting
    before = server.save()
    with pytest.raises(RemoteProtocolError) as refused:
        server.check_chunk(client, spoil(chunks[1][0]), index=index)
    assert refused.value.check == check
    assert server.save() == before


def test_a_message_of_another_type_is_no_chunk(waiting):
    server, _ = waiting
    advert = Client(SESSION, identity(1), policy=LENIENT, rng=seeded("again")).start()[0].payload
    with pytest.raises(RemoteProtocolError, match="V04"):
        server.check_chunk(1, advert, index=0)


def test_state_in_pieces_is_the_state_and_is_read_from_where_it_lies(waiting):
    server, chunks = waiting
    server.receive(1, chunks[1][0])
    blob = server.save()
    assert b"".join(server.save_parts()) == blob
    again = Server.restore(memoryview(blob), SESSION, identity("server"))
    assert again.save() == blob
    assert again.next_chunk(1) == 1

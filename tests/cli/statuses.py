"""A session's status as the tests of the page and of the metrics have it."""

from dataclasses import replace

from collabsecure_cli.status import ClientStatus, Status

MB = 1_000_000


def a_client(number, name, standing="arrived", *, received=41 * MB, seen: float | None = 2.0):
    return ClientStatus(number=number, name=name, standing=standing, bytes_received=received, last_seen_seconds=seen)


CLIENTS = (
    a_client(1, "alice", received=98_304_112, seen=0.4),
    a_client(2, "bob", "waited for", received=61 * MB),
    a_client(3, "carol", received=98_304_112, seen=1.3),
    a_client(4, "dave", "left out", received=1234, seen=3725.0),
    a_client(5, "Universitätsklinikum Süd, Abteilung Dokumentation", "waited for", received=0, seen=None),
)
STATUS = Status(
    session="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    task="capitals-2025-autumn",
    model="gpt2-xl",
    flow="layer-synchronous",
    phase="MASKED_INPUT",
    sum_name="layer 14",
    sum_index=1,
    num_sums=5,
    clients=CLIENTS,
    bytes_received=257_609_458,
    seconds_left=312.0,
    running_seconds=1834.0,
    outcome=None,
    finished=False,
    version="0.1.0",
    phase_seconds=900.0,
)


def status(**changes) -> Status:
    return replace(STATUS, **changes)

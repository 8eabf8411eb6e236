"""One client's part, on a line that is the aggregator's engine itself, and that a test can make lie."""

from contextlib import ExitStack, contextmanager

import numpy as np
from cohort import seeded
from light_session import SERVER, GivenArrays, make_session

from collabsecure_cli.aggregator import TooLate, WrongOffset
from collabsecure_cli.answers import OtherOffset, Refused
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger
from collabsecure_cli.participant import Participant, Progress
from collabsecure_cli.results import Results, sign_result
from collabsecure_cli.saved import Saved
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import Client, Policy, RemoteProtocolError
from collabsecure_protocols.envelope import MessageType

LIGHT = make_session(num_clients=4)
ME = 1
INSIDE = LIGHT.session.transcript.hex()[:32]
SERVED = (2, 3, 4)
BOUNDS = boundaries(LIGHT.session, 0)


class Wire:
    """A `Connection` that is the engine itself; everybody else acts when this client waits."""

    def __init__(self, engine, cohort, path):
        self.engine, self.cohort, self.path = engine, cohort, path
        self.sent: dict[object, bytes] = {}  # what it is → its bytes, which never change
        self.ends: list[int] = []
        self.bytes_sent = 0

    def _once(self, key, payload):
        assert self.sent.setdefault(key, bytes(payload)) == bytes(payload), f"{key} was sent with other bytes"

    def _asked(self, call, *arguments):
        try:
            return call(*arguments)
        except WrongOffset as error:
            raise OtherOffset(error.offset) from error
        except TooLate as error:
            raise Refused(410, str(error), "") from error
        except RemoteProtocolError as error:
            raise Refused(409 if error.check in ("V04", "V08") else 400, str(error), error.check) from error

    def post(self, payload):
        kind = MessageType(payload[1])
        self._once((kind, self.engine.sum_index), payload)
        ledger = EditLedger(StateFolder(self.path))
        assert LIGHT.session.transcript in ledger.protocol.begun
        if kind is MessageType.UNMASK:  # what it opens is written down where every later session looks
            name = LIGHT.session.sums[self.engine.sum_index].name
            assert name in {opened for _, opened in ledger.protocol.opened}
            layers = ledger._content.sessions[LIGHT.session.transcript].layers
            assert LIGHT.agreement.layers[self.engine.sum_index] in layers
        self._asked(self.engine.receive, ME, payload)

    def message(self, number):
        box = self.engine.mailboxes[ME]
        while number >= len(box):
            if self.engine.is_over:
                raise Refused(410, self.engine.failure or "the session has finished", "")
            if ME in self.engine.out:
                raise Refused(410, "the set-up ended without this client", "")
            self.let_others_act()
        return box[number]

    def let_others_act(self):
        """One of them, once; when all wait for this client, the phase's time is up."""
        action = (self.cohort.actions(self.engine) or [("close", 0)])[0]
        before = self.engine.state, self.engine.sum_index, self.engine.missing
        self.cohort.do(self.engine, action)
        self.cohort.done(self.engine, action)
        stuck = action[0] == "close" and before == (self.engine.state, self.engine.sum_index, self.engine.missing)
        assert not stuck, "the test has come to a standstill"

    def end(self, number):
        self.ends.append(number)

    def offset(self, index):
        return self._asked(self.engine.offset, ME, index)

    def upload(self, index, offset, chunk):
        number = boundaries(LIGHT.session, index).index(offset)
        self._once((index, number), chunk)
        saved = Saved.decode((self.path / INSIDE / "client").read_bytes(), self.path, 4)
        identity = LIGHT.identities[ME]
        on_disk = Client.restore(saved.client, LIGHT.session, identity, policy=Policy())
        assert on_disk.chunks_sent > number
        self._asked(self.engine.upload, ME, index, offset, bytes(chunk))

    def settle(self):
        """Every upload was settled when it was made."""

    def result(self, index):
        results = self.engine.results
        while not results.has(index):
            if self.engine.is_over:
                raise Refused(410, self.engine.failure, "")
            self.let_others_act()
        return {
            "layers": {
                str(layer): {
                    "digest": results.digests[layer].hex(),
                    "signature": sign_result(LIGHT.session, SERVER, layer, results.digests[layer]).hex(),
                }
                for layer in results.layers_of(index)
            },
            "survivors": list(results.survivors[results.layers_of(index)[0]]),
        }

    def layer(self, layer, num_bytes):
        data = bytearray(self.engine.results.path(layer).read_bytes())
        assert len(data) == num_bytes
        return data


class Part:
    """A participant on a state folder, with what it said and contributed."""

    def __init__(self, wire, path, stack, *, given=None, policy=None):
        self.said = []
        self.given = given or GivenArrays(LIGHT, ME)
        folder = stack.enter_context(StateFolder.opened(path))
        inside = folder.folder(INSIDE)
        self.ledger = EditLedger(folder)
        self.participant = Participant(
            Results(LIGHT.session, LIGHT.agreement, inside.folder("results")),
            LIGHT.identities[ME],
            self.given,
            wire,
            ledger=self.ledger,
            folder=inside,
            policy=policy or Policy(),
            rng=seeded("me"),
            progress=Progress(say=self.said.append, uploaded=lambda _done, _of: None),
        )

    def run(self):
        self.participant.run()


@contextmanager
def part_of(wire, path, **how):
    with ExitStack() as stack:
        yield Part(wire, path, stack, **how)


def statistics_in(path):
    return sorted(found.name for found in (path / INSIDE).glob("statistics-*"))


def is_right(given, survivors=(1, 2, 3, 4)):
    expected = {layer: LIGHT.expected(layer, survivors) for layer in LIGHT.agreement.layers}
    return given.deltas.keys() == expected.keys() and all(
        np.linalg.norm(given.deltas[layer] - delta) <= 1e-8 * np.linalg.norm(delta) for layer, delta in expected.items()
    )

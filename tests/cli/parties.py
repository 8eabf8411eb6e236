"""Organisations of the small world: keys, edits and sessions, all made by the real commands; and runs of sessions."""

import json
import shutil
import signal
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from certificates import issue, make_authority
from crashes import Hooks
from processes import Zygote

from collabsecure.deltas import load_delta
from collabsecure.world import load_world

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace")
EDITS = (3, 2, 4, 2, 3, 2, 2)  # records of each
SESSIONS = {  # name → how many of NAMES take part, and what else `session new` is told
    "seven": (7, ()),
    "five": (5, ()),
    "five-one-shot": (5, ("--one-shot",)),
    "three": (3, ()),
    "three-again": (3, ()),
    "three-one-shot": (3, ("--one-shot",)),
}
MAX_CHANGE = ("--max-change", "100")  # so few edits change this small a model by more than itself

_ROUNDS_ALONE = 60  # a second or so, in which an aggregator that waits for nobody ends by itself


@dataclass(frozen=True, kw_only=True)
class Parties:
    """A folder with NAME.key, NAME.json, values/NAME, roster-N.toml, SESSION.json, stats/ and certificates."""

    folder: Path
    zygote: Zygote = field(repr=False)

    def key(self, name):
        return self.folder / f"{name}.key"

    def edits(self, name):
        return self.folder / f"{name}.json"

    def session(self, session):
        return self.folder / f"{session}.json"

    def names(self, session):
        return NAMES[: SESSIONS[session][0]]

    def certificate(self, name):
        return self.folder / f"{name}.pem", self.folder / f"{name}.tls"

    def expected(self, session, *drops):
        """Δ by layer and survivors by layer that the same session has in one process; or why it was aborted."""
        out = self.folder / f"expected-{'-'.join((session, *drops)).replace(':', '.')}.npz"
        if not out.exists():
            temporary = self.folder / f"{self.zygote.number()}.npz"
            arguments = (self.folder, self.session(session), temporary, *drops)
            self.zygote.run("simulated", arguments, folder=self.folder, program="simulated")
            temporary.rename(out)
        with np.load(out) as file:
            found = {name: file[name][()] for name in file.files}
        if "reason" in found:
            return str(found["reason"])
        survivors = {int(layer): tuple(members) for layer, members in json.loads(str(found["survivors"])).items()}
        return {layer: found[f"layer.{layer}"] for layer in survivors}, survivors


def make_parties(folder, zygote):
    """Everything that does not depend on a test; some ten seconds."""
    world = load_world()
    (folder / "stats").symlink_to(world.second_moments)
    records = json.loads(world.records.read_text())
    lines = {}
    for name, number in (*zip(NAMES, EDITS, strict=True), ("server", 0)):
        made = zygote.start(f"{name}-identity", ("identity", "new", "--out", f"{name}.key"), folder=folder)
        own, records = records[:number], records[number:]
        (folder / f"{name}.json").write_text(json.dumps(own))
        lines[name] = made
    lines = {name: made.stdout if made.wait() == 0 else made.stderr for name, made in lines.items()}
    for count in {count for count, _ in SESSIONS.values()}:
        clients = "".join(lines[name] for name in NAMES[:count])
        (folder / f"roster-{count}.toml").write_text(f"[server]\n{lines['server']}[clients]\n{clients}")
    made = [
        zygote.start(f"new-{name}", _session_new(world, name, count, options), folder=folder)
        for name, (count, options) in SESSIONS.items()
    ]
    for process in made:
        assert process.wait() == 0, process.stderr
    zygote.run("values", (folder,), folder=folder, program="simulated")
    authority = make_authority(folder, "authority")
    for name in ("localhost", *NAMES):
        issued = issue(authority, f"tls-{name}")
        issued.certificate.rename(folder / f"{name}.pem")
        issued.key.rename(folder / f"{name}.tls")


def _session_new(world, name, count, options):
    return (
        *("session", "new", "--model", world.model, "--hparams", world.hyperparameters, "--device", "cpu"),
        *("--templates", world.templates, "--second-moment", "stats", "--max-edits", "10", "--task", f"try {name}"),
        *("--roster", f"roster-{count}.toml", "--out", f"{name}.json", *options),
    )


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """One session of `Parties` in a folder of its own; start it again and again with the same command lines."""

    def __init__(
        self,
        parties,
        session,
        folder,
        *,
        tls=True,
        mutual=False,
        wait_for_the_dead=False,
        port=None,
        through=None,
        sockets=None,  # a folder for them: clients are daemons
    ):
        self.parties, self.session_name, self.folder = parties, session, folder
        self.names = parties.names(session)
        self.tls, self.mutual = tls, mutual
        self.port = port or free_port()
        self.client_port = through or self.port  # a proxy's, if there is one
        self.dead = folder / "dead"
        self.dead.mkdir(parents=True)
        self.waits, self.sockets = wait_for_the_dead, sockets
        self.processes = []
        self.options = ["--join-time", "60s", "--answer-time", "60s", "--upload-time", "60s", "--linger", "60s"]

    def number(self, name):
        return self.names.index(name) + 1

    def aggregate(self, *options, crash=None, trace=""):
        """Start the aggregator."""
        security = ["--insecure"]
        if self.tls:
            certificate, key = self.parties.certificate("localhost")
            security = ["--tls-cert", certificate, "--tls-key", key]
            if self.mutual:
                security += ["--client-ca", self.parties.folder / "authority.pem"]
        return self._start(
            "aggregator",
            [
                *("aggregate", "--session", self.parties.session(self.session_name), "--key"),
                *(self.parties.key("server"), "--listen", f"127.0.0.1:{self.port}", "--out", "merged"),
                *("--status-listen", "127.0.0.1:0"),
                *(*security, *self.options, *options, "--json"),
            ],
            Hooks(crash=crash, trace=str(trace), dead=str(self.dead), me="aggregator"),
        )

    def client(
        self,
        name,
        *options,
        crash=None,
        trace="",
        edits=None,
        state=None,
        certified=True,
        session=None,
        without_masks=False,
    ):
        """Start a client, whose values are in its state folder already."""
        state = Path(state or self.state(name))
        if not (state / "values").exists():
            shutil.copytree(self.parties.folder / "values" / name, state / "values")
        line = ["--server", f"{'https' if self.tls else 'http'}://127.0.0.1:{self.client_port}"]
        if self.sockets:
            line = ["--daemon", "--socket", self.socket(name)]
        elif self.tls:
            line += ["--ca", self.parties.folder / "authority.pem"]
            if self.mutual and certified:
                certificate, key = self.parties.certificate(name)
                line += ["--tls-cert", certificate, "--tls-key", key]
        else:
            line.append("--insecure")
        (self.dead / str(self.number(name))).unlink(missing_ok=True)
        return self._start(
            name,
            [
                *("client", "--session", self.parties.session(session or self.session_name)),
                *("--key", self.parties.key(name)),
                *("--edits", edits or self.parties.edits(name), "--state", state, "--device", "cpu", *MAX_CHANGE),
                *("--out", f"{name}.merged", "--patience", "60s", *line, *options, "--json"),
            ],
            Hooks(
                crash=crash,
                trace=str(trace),
                dead=str(self.dead),
                me=str(self.number(name)),
                without_masks=without_masks,
            ),
        )

    def socket(self, name):
        return self.sockets / name

    def state(self, name):
        return self.folder / f"{name}.state"

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def all_clients(self, *options, **crashes):
        """Start every client; by name, where it is to crash."""
        return {name: self.client(name, *options, crash=crashes.get(name)) for name in self.names}

    def delta(self, name=None):
        """The Δ that the aggregator, or a client, has written."""
        return load_delta(self.folder / ("merged" if name is None else f"{name}.merged") / "delta.safetensors")

    def check(self, *names, drops=()):
        """The aggregator's result, and each named client's, is the one of the same session in one process."""
        deltas, survivors = self.parties.expected(self.session_name, *drops)
        for name in (None, *names):
            found = self.delta(name)
            assert found.provenance.survivors == survivors, name
            assert found.layers.keys() == deltas.keys()
            for layer, delta in deltas.items():
                assert np.array_equal(found.layers[layer], delta), f"layer {layer} of {name or 'the aggregator'}"
        return survivors

    def to_the_end(self, *options, aggregator=None, **crashes):
        """Start everybody, let each die once at its crash point, and start it again with the same command line.

        Returns who never came to it, as another's death came between.
        """
        self.aggregate(*options, crash=aggregator)
        self.all_clients(**crashes)
        doomed = {name for name, crash in (("aggregator", aggregator), *crashes.items()) if crash is not None}
        last, rounds_alone = {process.name: process for process in self.processes}, 0
        while not all(process.code == 0 for process in last.values()):
            rounds_alone += "aggregator" not in doomed and all(last[name].code == 0 for name in self.names)
            if rounds_alone == _ROUNDS_ALONE:
                # A killed aggregator forgets who has the result already, and would wait for them.
                last["aggregator"].kill(signal.SIGTERM)
            for name, process in list(last.items()):
                if process.wait_a_little() == -9 and name in doomed:
                    doomed.discard(name)
                    last[name] = self.aggregate(*options) if name == "aggregator" else self.client(name)
                elif process.code not in (None, 0):
                    raise AssertionError(f"{name} ended with {process.code}: {process.stderr}")
        return doomed

    def finish(self, aggregator, clients):
        """Wait until every process has ended well; what each says as JSON."""
        everybody = (*clients.values(), aggregator)
        while not all(process.code == 0 for process in everybody):
            for process in everybody:
                assert process.wait_a_little() in (None, 0), f"{process.name}: {process.code}\n{process.stderr}"
        return json.loads(aggregator.stdout), {name: json.loads(process.stdout) for name, process in clients.items()}

    def _start(self, name, arguments, hooks):
        if self.waits:
            hooks = replace(hooks, dead="")
        process = self.parties.zygote.start(name, arguments, folder=self.folder, hooks=hooks)
        self.processes.append(process)
        return process


@contextmanager
def running(parties, session, folder, **options):
    """A run, none of whose processes outlives the block."""
    run = Run(parties, session, folder, **options)
    try:
        yield run
    finally:
        for process in run.processes:
            process.kill()
        for process in run.processes:
            process.gone()

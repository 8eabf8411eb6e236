"""Encrypted sessions of the small world: `parties` and one more, who holds the key; and runs of their sessions."""

import base64
import fcntl
import json
import os
import shutil
import signal
from contextlib import contextmanager

import numpy as np
from crashes import Hooks
from parties import NAMES, Parties, Run, _session_new

from collabsecure.world import load_world

HOLDER = "heidi"
ENCRYPTED = {  # name → how many of NAMES take part, the scheme, and what else `session new` is told
    "five-bfv": (5, "bfv", ()),
    "five-ckks": (5, "ckks", ()),
    "three-bfv": (3, "bfv", ()),
    "three-one-shot-bfv": (3, "bfv", ("--one-shot",)),
}


class EncryptedParties(Parties):
    """`Parties` with heidi.key, heidi.state and SESSION.json of `ENCRYPTED`."""

    def names(self, session):
        return NAMES[: ENCRYPTED[session][0]]

    @property
    def secrets(self):
        """The key holder's state folder before any session."""
        return self.folder / f"{HOLDER}.state"


def make_encrypted(parties):
    """Made once for all workers of a run; some five seconds."""
    made = EncryptedParties(folder=parties.folder, zygote=parties.zygote)
    with (parties.folder / "encrypted.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (parties.folder / "encrypted").exists():
            _make(made)
            (parties.folder / "encrypted").touch()
    return made


def _make(parties):
    folder, run = parties.folder, parties.zygote.run
    line = run("holder-identity", ("identity", "new", "--out", f"{HOLDER}.key"), folder=folder).stdout
    for count in {count for count, *_ in ENCRYPTED.values()}:
        roster = (folder / f"roster-{count}.toml").read_text()
        (folder / f"roster-{count}-encrypted.toml").write_text(f"{roster}[key_holder]\n{line}")
    for session, (_, scheme, _) in ENCRYPTED.items():
        new = ("keyholder", "new", "--key", f"{HOLDER}.key", "--scheme", scheme, "--out", f"{session}.holder.json")
        run("holder-new", new, folder=folder)
    starting = [
        parties.zygote.start(
            f"new-{session}",
            _session_new(
                load_world(), session, f"{count}-encrypted", ("--encryption", f"{session}.holder.json", *options)
            ),
            folder=folder,
        )
        for session, (count, _, options) in ENCRYPTED.items()
    ]
    for process in starting:
        assert process.wait() == 0, process.stderr


class EncryptedRun(Run):
    """A `Run` with a key holder."""

    def key_holder(self, *options, crash=None, trace="", session=None, state=None):
        """Start the key holder, whose key pair is in its state folder already."""
        state = state or self.state(HOLDER)
        if not state.exists():
            shutil.copytree(self.parties.secrets, state)
        number = len(self.names) + 1
        (self.dead / str(number)).unlink(missing_ok=True)
        return self._start(
            HOLDER,
            [
                *("keyholder", "run", "--session", self.parties.session(session or self.session_name)),
                *("--key", self.parties.key(HOLDER), "--state", state, "--out", f"{HOLDER}.merged"),
                *("--server", self.url, "--ca", self.parties.folder / "authority.pem", "--patience", "60s"),
                *(*options, "--json"),
            ],
            Hooks(crash=crash, trace=str(trace), dead=str(self.dead), me=str(number)),
        )

    def kill(self, pid):
        """A process that one of ours has started."""
        os.kill(pid, signal.SIGKILL)

    def all_clients(self, *options, **crashes):
        return super().all_clients("--encryption-processes", "1", *options, **crashes)

    def check(self, *names, drops=()):
        return super().check(HOLDER, *names, drops=drops)

    def to_the_end(self, *options, aggregator=(), holder=()):
        """Let two parties die at each of their crash points in turn, started again with the same command line."""
        left = {"aggregator": list(aggregator), HOLDER: list(holder)}
        start = {"aggregator": lambda crash: self.aggregate(*options, crash=crash), HOLDER: self.key_holder}

        def again(name):
            return start[name](crash=left[name][0] if left[name] else None)

        last = {**{name: again(name) for name in start}, **self.all_clients()}
        while not all(process.code == 0 for process in last.values()):
            for name, process in list(last.items()):
                if process.wait_a_little() == -9 and left.get(name):
                    left[name].pop(0)
                    last[name] = again(name)
                elif process.code not in (None, 0):
                    raise AssertionError(f"{name} ended with {process.code}: {process.stderr}")
        assert not any(left.values()), f"{left} were never come to"
        return last


@contextmanager
def running(parties, session, folder, **options):
    """A run, none of whose processes outlives the block."""
    run = EncryptedRun(parties, session, folder, **options)
    try:
        yield run
    finally:
        for process in run.processes:
            process.kill()
        for process in run.processes:
            process.gone()


class Secret:
    """A key pair's secret in every form in which it could lie about, to be looked for in bytes."""

    def __init__(self, pair):
        key = pair._ring.context.secret_key().data()
        words = np.array([key[place] for place in range(2 * 4096)], "<u8")
        stretches = [words[at : at + 3].tobytes() for at in range(0, len(words) - 3, 97)]
        self._forms = {form for stretch in stretches for form in _forms(stretch)}

    def is_in(self, data):
        return any(form in data for form in self._forms)


def _forms(stretch):
    yield stretch
    yield stretch.hex().encode()
    yield stretch.hex().upper().encode()
    for shift in range(3):  # base64 of it, wherever among other bytes it starts
        yield base64.b64encode(bytes(shift) + stretch)[-(-shift * 8 // 6) : -4]


def heard(process):
    """What a process has said as JSON."""
    return json.loads(process.stdout)

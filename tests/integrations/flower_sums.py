"""What a run of the example in examples/flower/sum needs, made as its README says: keys, a roster, a session."""

import importlib
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from collabsecure_cli.main import main
from collabsecure_cli.session import load_session

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower" / "sum"
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
ROUNDS = 3

MALICIOUS = Path(__file__).parent / "flower_malicious"
ATTACKS = {  # what its server app is told, by what it does with four clients
    "survivors": [
        *(f"sets, client {client}: 1 messages" for client in (1, 2, 3, 4)),
        *(f"another set, client {client}: refused V25" for client in (1, 2, 3, 4)),
    ],
    "both": [
        *(f"sets, client {client}: 1 messages" for client in (1, 2, 3, 4)),
        *(f"first shares, client {client}: 1 messages" for client in (1, 2, 3, 4)),
        *(f"second set, client {client}: refused V04" for client in (1, 2, 3)),
        *(f"second shares, client {client}: refused V04" for client in (1, 2, 3)),
        *(f"second input, client {client}: refused V20" for client in (1, 2, 3, 4)),
    ],
}


class Example:
    """A folder with NAME.key, sum-server.key and session.json."""

    def __init__(self, folder, clients=3, make_session=None, *, rounds=ROUNDS, **config):
        folder.mkdir(exist_ok=True)
        self.folder, self.names = folder, NAMES[:clients]
        lines = [_identity(folder, name) for name in ("sum-server", *self.names)]
        roster = folder / "roster.toml"
        roster.write_text(f"[server]\n{lines[0]}\n[clients]\n" + "\n".join(lines[1:]))
        if make_session is None:  # Flower's example, which must be on sys.path
            importlib.import_module("make_session").main(str(roster), str(folder / "session.json"), rounds)
        else:
            make_session(str(roster), str(folder / "session.json"))
        self.session = load_session(folder / "session.json")
        self.config = {
            "session": str(folder / "session.json"),
            "key": str(folder / "sum-server.key"),
            "rounds": rounds,
            "out": str(folder / "model.npz"),
            **config,
        }

    def key(self, name):
        return self.folder / f"{name}.key"

    @property
    def model(self):
        return np.load(self.config["out"])["model"]

    def start_daemon(self, name, socket):
        """The command of a node's owner; it ends when the session is over."""
        command = [Path(sys.executable).with_name("collabsecure"), "client", "--daemon", "--socket", socket]
        command += ["--session", self.config["session"], "--key", self.key(name)]
        with (self.folder / f"{name}.daemon.log").open("ab") as log:
            return subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)


def _identity(folder, name):
    out = StringIO()
    with redirect_stdout(out):
        main(["identity", "new", "--out", str(folder / f"{name}.key")], standalone_mode=False)
    return re.search(r'^\S+ = "ed25519:\w+"$', out.getvalue(), re.M)[0]


def averaged(client_app, survivors_by_round):
    """What FedAvg in the clear gives; nodes by their place on the roster, from 0."""
    model = np.zeros(8)
    for survivors in survivors_by_round:
        parts = [client_app.data(node) for node in survivors]
        trained = [client_app.descend(model, *part) * len(part[1]) for part in parts]
        model = np.sum(trained, axis=0) / sum(len(targets) for _, targets in parts)
    return model


def told(log):
    """The malicious server app's lines."""
    return [line for line in log.splitlines() if re.match(r"[a-z ]+, client \d: ", line)]

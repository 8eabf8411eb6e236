"""An editing session inside an engine: its aggregator and its clients' daemons, as real processes of real commands."""

import shutil

from crashes import Hooks
from parties import MAX_CHANGE, Run

SECONDS = "900s"  # an engine takes its time for every exchange, and more on a busy machine


class Embedded(Run):
    """As a session over the network, but that clients are daemons at `<folder>/<number>.sock`."""

    def __init__(self, parties, session, folder):
        super().__init__(parties, session, folder)
        self.options = ["--join-time", SECONDS, "--answer-time", SECONDS, "--upload-time", SECONDS, "--linger", SECONDS]

    def socket(self, number):
        """Of the daemon of client `number`, from 1."""
        return self.folder / f"{number}.sock"

    def daemon(self, name):
        """Start a client's daemon, whose values are in its state folder already."""
        state = self.state(name)
        if not (state / "values").exists():
            shutil.copytree(self.parties.folder / "values" / name, state / "values")
        return self._start(
            name,
            [
                *("client", "--session", self.parties.session(self.session_name), "--key", self.parties.key(name)),
                *("--edits", self.parties.edits(name), "--state", state, "--device", "cpu", *MAX_CHANGE),
                *("--daemon", "--socket", self.socket(self.number(name)), "--patience", SECONDS),
                *("--out", f"{name}.merged", "--json"),
            ],
            Hooks(dead=str(self.dead), me=str(self.number(name))),
        )

    def start(self):
        """The aggregator and all daemons, which listen."""
        self.aggregate()
        daemons = {name: self.daemon(name) for name in self.names}
        for daemon in daemons.values():
            daemon.says("Listening on")

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.gone()

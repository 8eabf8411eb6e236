"""Engines whose nodes are daemons of a run, and a tunnel between these and the run's aggregator."""

import threading
from contextlib import contextmanager

from threaded_host import ThreadedHost

from collabsecure.integrations import asking, tunnel, turns
from collabsecure.integrations.host import respond
from collabsecure.integrations.relay import Daemon, NoDaemon
from collabsecure.integrations.tunnel import Tunnel
from collabsecure_cli.session import load_session


def shorten_pauses(monkeypatch):
    """Else an exchange with nobody would be waited for as long as engines take."""
    for module, mark in ((asking, "_"), (tunnel, ""), (turns, "")):
        monkeypatch.setattr(module, f"{mark}FIRST_PAUSE", 0.05)
        monkeypatch.setattr(module, f"{mark}LONGEST_PAUSE", 0.2)
    for module in (asking, tunnel):
        monkeypatch.setattr(module, "_LOOK", 0.1)


class Engine(ThreadedHost):
    """Nodes whose apps only bring bytes to a socket, and that can fail the coordinating end as well."""

    def __init__(self, sockets, values=None, dies_at=()):
        super().__init__({name: self._app(path, name, values) for name, path in sockets.items()})
        self.dies_at = set(dies_at)

    def _app(self, path, name, values):
        def answer(request):
            try:
                return respond(Daemon(path), request, values and (lambda sum_name: values(name, sum_name)))
            except NoDaemon:
                return None

        return answer

    def send(self, node, request):
        if len(self.requests) in self.dies_at:
            self.dies_at.remove(len(self.requests))
            raise ServerAppDied
        super().send(node, request)


class ServerAppDied(Exception):
    """The engine will start another."""


@contextmanager
def tunnelling(run, dies_at=()):
    """Carry between a run's daemons and its aggregator; gives how that ended, and how often it began."""
    ends, starts = [], []

    def work():
        while True:
            sockets = {name: run.socket(name) for name in run.names}
            starts.append(Engine(sockets, dies_at=() if starts else dies_at))
            session = load_session(run.parties.session(run.session_name))
            carried = Tunnel(
                starts[-1], run.url, session=session, ca=run.parties.folder / "authority.pem", patience=60.0
            )
            try:
                ends.append(carried.run())
            except ServerAppDied:
                continue
            return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield ends, starts
    thread.join(60)
    assert not thread.is_alive()

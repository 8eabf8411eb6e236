"""Connections of one client of a light session, on a clock that only pauses move."""

import itertools
from contextlib import ExitStack, closing, contextmanager

from light_session import make_session

from collabsecure_cli.connection import Connection
from collabsecure_cli.lines import Endpoint

LIGHT = make_session(num_clients=3)
CLIENT = 2


@contextmanager
def connections(time):
    """Yield what makes connections; what they say is in `said`. All are closed at the end."""
    with ExitStack() as stack:

        def connect(url, *, patience=1000.0, **how):
            said = []
            connection = Connection(
                Endpoint(url=url, insecure=url.startswith("http:"), **how),
                LIGHT.session,
                LIGHT.identities[CLIENT],
                patience=patience,
                tell=said.append,
                clock=time,
                sleep=time.sleep,
            )
            connection.said = said
            return stack.enter_context(closing(connection))

        yield connect


def in_turn(*answers):
    """One answer after the other; the last for ever."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda _: next(left)

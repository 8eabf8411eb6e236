"""An aggregator's engine in any phase, and what it would be after a kill at that moment."""

import shutil
from contextlib import contextmanager

from cohort import Cohort
from light_session import engine_in, make_session

from collabsecure_protocols import ServerState

LIGHT = make_session()
M, C, U = ServerState.MASKED_INPUT, ServerState.CONSISTENCY_CHECK, ServerState.UNMASK


def steps_bytes(path):
    return sum(file.stat().st_size for file in path.glob("steps-*"))


def uploads_in(path):
    return sorted(file.name for file in path.glob("upload-*"))


@contextmanager
def reopened(path, copy):
    """A second engine on a copy of the folder as it is now, as after a kill."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    with engine_in(LIGHT, copy) as engine:
        yield engine


@contextmanager
def session_at(path, state, *, answered=0, chunks=0, light=LIGHT):
    """An engine in a phase in which so many clients have answered; the next has uploaded so many chunks."""
    with engine_in(light, path) as engine:
        cohort = Cohort(light)

        def there(engine):
            waited = light.session.num_clients - len(engine.missing)
            begun = not chunks or cohort.members[answered + 1].sent == chunks
            return (engine.state, waited) == (state, answered) and engine.sum_index < 1 and begun

        cohort.play(engine, until=there)
        assert there(engine)
        yield engine, cohort

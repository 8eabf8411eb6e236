"""One case for the tests of what is summed: five clients, synthetic keys, made once."""

import functools

from collabsecure.attacks.case import Case
from collabsecure.attacks.cases.masking import aggregated
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.views import AggregatorState

NUM_CLIENTS, EDITS = 5, 12


@functools.cache
def summed_case() -> Case:
    return synthetic_case(d_in=256, num_clients=NUM_CLIENTS, edits_per_client=EDITS, num_others=200, seed=1)


@functools.cache
def masked_state() -> AggregatorState:
    """What the server of one real session over it has."""
    return aggregated(summed_case().real)

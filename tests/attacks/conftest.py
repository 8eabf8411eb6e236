"""A case of real edits at both layers, made once. Nothing here imports torch until it is asked for."""

from dataclasses import replace

import pytest

from collabsecure.attacks.case import Case


@pytest.fixture(scope="session")
def two_layers() -> Case:
    """The small world, seed 0: 40 records, of which two clients edit two each; 20 of its public subjects' facts.

    Values after 3 steps in place of 20: what they are worth is not asked here.
    """
    from collabsecure.attacks.cases.small_world import small_world

    whole = small_world(seed=0)
    few_steps = replace(whole.hyperparameters, v_num_grad_steps=3)
    laboratory = replace(whole, hyperparameters=few_steps, requests=whole.requests[:40], reference=whole.reference[:20])
    return laboratory.case(2, 2)

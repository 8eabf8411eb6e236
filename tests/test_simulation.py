"""Editing together gives what editing in one place gives: in the clear, through the secure sum, with dropouts."""

import hashlib

import numpy as np
import pytest

from collabsecure import simulation
from collabsecure.edits import EditRequest, split_among_clients
from collabsecure.errors import BadRequest, NotPositiveDefinite, SumAborted
from collabsecure.keys import residual_range
from collabsecure.secure_summation import PHASES, Drop, SecureSummation
from collabsecure.sessions import Ranges, editing_session
from collabsecure.simulation import (
    Client,
    PlainSummation,
    edit_globally,
    edit_together,
    one_shot_statistics,
    relative_distance,
)
from collabsecure.statistics import Statistics, Summed
from collabsecure.templates import ContextTemplates
from collabsecure_protocols import Identity, Policy, ServerState

LAYERS = (0, 1, 2)
WEIGHT = 10.0
NAMES = ("Ada Quill", "Bram Stone", "Mira Voss", "Émile Zürn", "Danelle Derrivaux", "Norland", "Lindau", "Ostrava")
REQUESTS = [
    EditRequest(prompt=prompt, subject=name, target_new=target, case_id=number)
    for number, (name, prompt, target) in enumerate(
        (name, prompt, target)
        for name in NAMES
        for prompt, target in (("{} plays the", "violin"), ("The mother tongue of {} is", "French"))
    )
]
TEMPLATES = ContextTemplates(groups=(("{}",), ("The best of it. {}",)))


@pytest.fixture
def model(tiny_editable):
    tiny_editable.model.double()
    return tiny_editable


@pytest.fixture
def clients(model):
    # Any values do: what is compared is how the same ones are written.
    values = np.random.default_rng(7).normal(scale=0.3, size=(len(REQUESTS), model.d_model))
    return {
        number: Client(requests=part, values=values[[request.case_id for request in part]])
        for number, part in enumerate(split_among_clients(REQUESTS, 5), 1)
    }


@pytest.fixture
def moments(model):
    rng = np.random.default_rng(3)
    scales = np.exp(rng.normal(size=model.d_in(0)))  # features of very different sizes, as real ones are
    keys = rng.normal(size=(model.d_in(0), 2000)) * scales[:, None]
    return dict.fromkeys(LAYERS, WEIGHT * keys @ keys.T / 2000)


def secure(moments, model, *, bits=48, drops=(), one_shot=False):
    identities = [Identity(hashlib.sha256(f"client {number}".encode()).digest()) for number in range(1, 6)]
    server = Identity(hashlib.sha256(b"server").digest())
    session = editing_session(
        session_id=bytes(16),
        task="test",
        roster=[identity.public for identity in identities],
        server_key=server.public,
        second_moments=moments,
        weight=WEIGHT,
        d_out=model.d_model,
        ranges=Ranges(max_edits=4, residual=residual_range(model, NAMES, LAYERS[-1], 0.75), key_mean=512.0),
        bits=bits,
        one_shot=one_shot,
    )
    return SecureSummation(session, identities, server, policy=Policy(), drops=drops)


def distances(deltas, reference):
    return [relative_distance(deltas[layer], reference[layer]) for layer in LAYERS]


def test_layer_synchronous_equals_global_editing_at_every_layer(model, clients, moments):
    reference = edit_globally(model, clients, TEMPLATES, moments)
    together = edit_together(model, clients, TEMPLATES, moments, PlainSummation())
    assert max(distances(together.deltas, reference)) < 1e-10
    assert set(together.survivors.values()) == {(1, 2, 3, 4, 5)}


def test_one_shot_is_exact_at_the_first_layer_alone(model, clients, moments):
    reference = edit_globally(model, clients, TEMPLATES, moments)
    together = edit_together(model, clients, TEMPLATES, moments, PlainSummation(), flow="one-shot")
    first, *later = distances(together.deltas, reference)
    assert first < 1e-10
    assert min(later) > 1e-3


def test_for_one_shot_a_client_solves_only_what_later_layers_are_computed_on(model, clients, moments, monkeypatch):
    solved = []
    solve = simulation.merge_delta
    monkeypatch.setattr(simulation, "merge_delta", lambda *arrays: solved.append(1) or solve(*arrays))
    assert [layer for layer, _ in one_shot_statistics(model, clients[1], TEMPLATES, moments)] == list(LAYERS)
    assert len(solved) == len(LAYERS) - 1


@pytest.mark.parametrize(("bits", "bar"), [(64, 1e-10), (48, 1e-8), (40, 1e-6)])
def test_the_secure_sum_costs_no_more_than_its_ring_allows(model, clients, moments, bits, bar):
    reference = edit_globally(model, clients, TEMPLATES, moments)
    together = edit_together(model, clients, TEMPLATES, moments, secure(moments, model, bits=bits))
    assert max(distances(together.deltas, reference)) < bar


def test_one_shot_through_the_secure_sum_equals_one_shot_in_the_clear(model, clients, moments):
    plain = edit_together(model, clients, TEMPLATES, moments, PlainSummation(), flow="one-shot")
    summation = secure(moments, model, one_shot=True)
    together = edit_together(model, clients, TEMPLATES, moments, summation, flow="one-shot")
    assert max(distances(together.deltas, plain.deltas)) < 1e-8


@pytest.mark.parametrize("phase", PHASES)
def test_a_dropout_leaves_exactly_the_edits_of_the_survivors(model, clients, moments, phase):
    summation = secure(moments, model, drops=[Drop.parse(f"2@{phase}:1")])
    together = edit_together(model, clients, TEMPLATES, moments, summation)
    everyone, others = (1, 2, 3, 4, 5), (1, 3, 4, 5)
    # In the set-up a client is lost for every sum; once its masked input has arrived, it still counts in that sum.
    lost_from = {"advertise-keys": 0, "share-keys": 0, "masked-input": 1}.get(phase, 2)
    assert [together.survivors[layer] for layer in LAYERS] == [
        others if layer >= lost_from else everyone for layer in LAYERS
    ]
    reference = edit_globally(model, clients, TEMPLATES, moments, survivors=together.survivors)
    assert max(distances(together.deltas, reference)) < 1e-8


def test_too_many_dropouts_abort_with_phase_counts_and_threshold(model, clients, moments):
    summation = secure(moments, model, drops=[Drop.parse("2@masked-input"), Drop.parse("4@masked-input")])
    with pytest.raises(SumAborted, match="TOO_FEW in MASKED_INPUT of sum 0: 3 clients, needed 4"):
        edit_together(model, clients, TEMPLATES, moments, summation)


@pytest.mark.parametrize("text", ["2", "2@lunch", "x@unmask", "2@unmask:", "@unmask"])
def test_a_malformed_drop_is_refused_with_what_was_expected(text):
    with pytest.raises(BadRequest, match="expected CLIENT@PHASE"):
        Drop.parse(text)


def test_the_model_is_left_as_it_was(model, clients, moments):
    before = model.weights_digest()
    edit_together(model, clients, TEMPLATES, moments, PlainSummation())
    edit_together(model, clients, TEMPLATES, moments, PlainSummation(), flow="one-shot")
    assert model.weights_digest() == before


def test_a_corrupted_sum_is_refused_rather_than_merged(model, clients, moments):
    class Corrupting(PlainSummation):
        def sum(self, index, uploads, *, link) -> Summed:
            summed = super().sum(index, uploads, link=link)
            layer = LAYERS[index]
            gram = summed.layers[layer].gram - 1e9 * np.eye(len(summed.layers[layer].gram))
            return Summed(
                layers={layer: Statistics(gram=gram, cross=summed.layers[layer].cross)}, survivors=summed.survivors
            )

    with pytest.raises(NotPositiveDefinite):
        edit_together(model, clients, TEMPLATES, moments, Corrupting())


def test_every_phase_that_clients_answer_can_be_named():
    assert set(PHASES.values()) == set(ServerState) - {ServerState.READY, ServerState.FINISHED, ServerState.ABORTED}

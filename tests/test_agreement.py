"""What an editing session's parameters say: read back as written, and refused when they contradict themselves."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from collabsecure.agreement import Agreement, second_moment_digest
from collabsecure.errors import BadSession
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.sessions import Ranges, editing_session
from collabsecure_protocols import Identity, Session

SIZE = 6
MOMENTS = {layer: np.eye(SIZE) * (layer + 1) for layer in (1, 3)}
AGREEMENT = Agreement(
    model="gpt2-xl",
    revision=None,
    weights_digest="ab" * 32,
    weights_dtype="float32",
    layers=(1, 3),
    flow="layer-synchronous",
    hyperparameters=Hyperparameters(layers=(1, 3), second_moment_weight=20_000),
    templates='[["{}"], ["The best of it. {}"]]',
    second_moments={layer: second_moment_digest(moment) for layer, moment in MOMENTS.items()},
    max_edits=100,
    client_names=("alice", "bob", "müller & co"),
    server_name="sum-server",
)


def session_of(agreement: Agreement, **changes: str | None) -> Session:
    parameters = {name: text for name, text in (agreement.parameters() | changes).items() if text is not None}
    public = [Identity(bytes([number]) * 32).public for number in range(4)]
    return editing_session(
        session_id=bytes(32),
        task="test",
        roster=public[1:],
        server_key=public[0],
        second_moments=MOMENTS,
        weight=20_000,
        d_out=4,
        ranges=Ranges(max_edits=100, residual=10.0),
        one_shot=agreement.flow == "one-shot",
        parameters=parameters,
    )


@pytest.mark.parametrize(
    "agreement",
    [
        AGREEMENT,
        replace(AGREEMENT, flow="one-shot", revision="main"),
        replace(AGREEMENT, hyperparameters=Hyperparameters(layers=(1, 3), second_moment_weight=0.5, v_loss_layer=5)),
    ],
)
def test_an_agreement_comes_back_from_its_session_and_from_the_sessions_file(agreement):
    session = session_of(agreement)
    assert Agreement.of(session) == agreement
    assert Agreement.of(Session.from_json(session.to_json())) == agreement


def test_contexts_are_the_templates_groups():
    assert AGREEMENT.contexts == (("{}",), ("The best of it. {}",))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("format", None, "found a session of sums; expected an editing session"),
        ("format", "collabsecure editing 9", "found 'collabsecure editing 9'"),
        ("model", None, "no model"),
        ("max_edits", None, "no max_edits"),
        ("second_moment 3", None, "KeyError: 'second_moment 3'"),
        ("second_moment 5", "ab" * 32, "found 'second_moment 5'"),
        ("colour", "blue", "found 'colour'"),
        ("weights", "AB" * 32, "expected 64 hex digits"),
        ("second_moment 1", "1", "expected 64 hex digits"),
        ("weights_dtype", "int8", "expected one of float32"),
        ("layers", "1,2", "second_moment 2"),
        ("layers", "3,1", "expected the hyper-parameters'"),
        ("layers", "1, 3", "parameter 'layers'"),
        ("layers", "", "cannot be read"),
        ("flow", "both", "expected one of layer-synchronous, one-shot"),
        ("flow", "one-shot", "sums: found"),
        ("max_edits", "0", "expected at least 1"),
        ("max_edits", "0100", "parameter 'max_edits': found '0100'; expected '100'"),
        ("max_edits", "many", "cannot be read"),
        ("hyperparameters", "{}", "hyperparameters are no object"),
        ("hyperparameters", "[" * 100_000, "cannot be read"),
        ("templates", "[]", "templates"),
        ("templates", '[["{}"], ["no place"]]', "templates"),
        ("templates", "{}", "templates"),
        ("templates", "no JSON", "templates: found no JSON"),
        ("client_names", '["alice", "bob"]', "client_names: found 2; expected 3"),
        ("client_names", '["alice", "bob", "bob"]', "'bob'] twice"),
        ("client_names", '["alice", "bob", "sum-server"]', "'sum-server'] twice"),
        ("client_names", '["alice", "bob", "\\u001b[2J"]', "expected printable text"),
        ("client_names", '["alice", "bob", 3]', "a list of texts"),
        ("client_names", '"alice"', "a list of texts"),
        ("client_names", '["alice","bob","carol"]', "parameter 'client_names'"),
        ("server_name", " ", "expected printable text"),
        ("revision", "", "expected printable text"),
    ],
)
def test_parameters_that_are_none_or_contradict_themselves_are_refused(name, text, said):
    with pytest.raises(BadSession) as caught:
        Agreement.of(session_of(AGREEMENT, **{name: text}))
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"v_num_grad_steps": 20', '"v_num_grad_steps": 20.0'),
        ('"v_num_grad_steps": 20', '"v_num_grad_steps": true'),
        ('"v_lr": 0.5', '"v_lr": "0.5"'),
        ('"v_lr": 0.5', '"v_lr": null'),
        ('"v_lr": 0.5', '"v_lr": NaN'),
        ('"v_lr": 0.5', '"v_lr": 1' + "0" * 400),
        ('"v_lr": 0.5', '"v_lr": 0.50'),
        ('"layers": [1, 3]', '"layers": [1, 3.0]'),
        ('"layers": [1, 3]', '"layers": null'),
        ('"layers": [1, 3]', '"layers": [3, 1]'),
    ],
)
def test_hyperparameters_of_another_type_or_spelling_are_refused(old, new):
    text = AGREEMENT.parameters()["hyperparameters"]
    assert old in text
    with pytest.raises(BadSession):
        Agreement.of(session_of(AGREEMENT, hyperparameters=text.replace(old, new)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda gram, cross: (replace(gram, symmetric=False), cross),
        lambda gram, cross: (gram, replace(cross, shape=(SIZE, 4), column_exponents=())),
        lambda gram, cross: (gram, replace(cross, column_exponents=())),
        lambda gram, cross: (gram, replace(cross, row_exponents=(1,) * 4)),
        lambda gram, cross: (gram, replace(cross, bits=64)),
        lambda gram, cross: (replace(gram, name="gram 7"), cross),
        lambda gram, cross: (cross, gram),
        lambda gram, cross: (gram,),
    ],
)
def test_tensors_that_are_not_a_layers_statistics_are_refused(spoil):
    session = session_of(AGREEMENT)
    first = replace(session.sums[0], tensors=spoil(*session.sums[0].tensors))
    with pytest.raises(BadSession, match=r"sums|tensors"):
        Agreement.of(replace(session, sums=(first, *session.sums[1:])))


def test_sums_that_lack_a_layer_are_refused():
    session = session_of(AGREEMENT)
    with pytest.raises(BadSession, match="sums"):
        Agreement.of(replace(session, sums=session.sums[:1]))


def test_digest_of_a_second_moment_covers_every_entry_and_the_shape_but_not_the_memory_layout():
    matrix = np.random.default_rng(0).standard_normal((300, 300))
    digest = second_moment_digest(matrix)
    assert digest == second_moment_digest(np.asfortranarray(matrix))
    changed = matrix.copy()
    changed[299, 299] = np.nextafter(changed[299, 299], 1.0)
    assert second_moment_digest(changed) != digest
    assert second_moment_digest(np.zeros((1, 1))) != second_moment_digest(np.zeros((2, 2)))


def test_agreements_are_read_without_torch():
    code = "import sys; sys.modules['torch'] = None; import collabsecure.agreement"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)

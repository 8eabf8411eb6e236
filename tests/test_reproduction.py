"""The paper's methods and experiments: what each is on a tiny model, what the paper says on the small world."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from collabsecure.edits import EditRequest, Neighbor
from collabsecure.errors import TooFewRequests
from collabsecure.evaluate import evaluate_zsre
from collabsecure.evaluate.cases import counterfact_with_texts
from collabsecure.evaluate.intervals import Interval
from collabsecure.evaluate.scores import Figure
from collabsecure.keys import local_statistics
from collabsecure.merge import merge_delta
from collabsecure.reproduction.experiments import (
    COUNTERFACT,
    ZSRE,
    best_of,
    deal,
    joined,
    measure,
    plot_residuals,
    plot_scores,
    predicted_over_repeats,
    residuals_over_repeats,
    written_texts,
)
from collabsecure.reproduction.methods import (
    BEFORE,
    GLOBAL_EDIT,
    LAYER_SYNCHRONOUS,
    METHODS,
    ONE_SHOT,
    SIMPLE_AVERAGE,
    SWEEPS,
    TASK_ARITHMETIC,
    TASK_ARITHMETIC_SWEEP,
    TIES_OF_COLLABEDIT,
    TIES_SWEEP,
    Cohort,
    edit_alone,
    ties_by_layer,
)
from collabsecure.reproduction.results import Row
from collabsecure.simulation import relative_distance
from collabsecure.templates import ContextTemplates

NAMES = ("Ada Quill", "Bram Stone", "Mira Voss", "Émile Zürn", "Danelle Derrivaux", "Norland")
TEMPLATES = ContextTemplates(groups=(("{}",), ("The best of it. {}",)))


def request(number, name):
    return EditRequest(
        prompt="{} plays the",
        subject=name,
        target_new="violin",
        target_true="piano",
        paraphrases=(f"Listen, {name} plays the",),
        neighborhood=(Neighbor(prompt="Ada Quill plays the", answer="piano"),),
        generation_prompts=(f"{name} was born in",),
        case_id=number,
    )


REQUESTS = [request(number, name) for number, name in enumerate(NAMES)]


@pytest.fixture
def cohort_of(tiny_editable):
    """Three clients, on layers of one's choice."""
    tiny_editable.model.double()
    rng = np.random.default_rng(3)
    values = rng.normal(scale=0.3, size=(len(REQUESTS), tiny_editable.d_model))
    width = tiny_editable.d_in(0)
    keys = rng.normal(size=(width, 2000))

    def make(layers=(0, 1), templates=TEMPLATES, weight=10.0):
        return Cohort(
            model=tiny_editable,
            clients=deal(REQUESTS, values, num_clients=3, edits_per_client=2),
            templates=templates,
            second_moments=dict.fromkeys(layers, weight * keys @ keys.T / 2000),
        )

    return make


@pytest.fixture
def cohort(cohort_of):
    return cohort_of()


def asked(methods, evaluation=COUNTERFACT):
    return [(method, evaluation) for method in methods]


def row(method="M", score=None, *, edits=1, settings=()):
    figure = Figure(name="Score", value=score, interval=None if score is None else Interval(low=0.0, high=1.0))
    return Row(method=method, settings=settings, clients=3, edits=edits, figures=(figure,))


def test_each_client_edits_alone_on_top_of_its_own_edits_below(cohort):
    updates = edit_alone(cohort)
    assert len(updates) == 3
    client, model, own = cohort.clients[2], cohort.model, {}
    for layer in (0, 1):
        with model.apply(own):
            mine = local_statistics(model, client.requests, client.values, TEMPLATES, layer, (0, 1))
        own[layer] = merge_delta(cohort.second_moments[layer], mine.gram, mine.cross)
    for layer in (0, 1):
        np.testing.assert_allclose(updates[1][layer], own[layer], rtol=1e-9, atol=1e-12)


def test_collabedit_is_global_edit_to_the_last_record_and_only_layer_by_layer(cohort):
    deltas = {method: method.edit(cohort, None) for method in (GLOBAL_EDIT, LAYER_SYNCHRONOUS, ONE_SHOT)}
    reference = deltas[GLOBAL_EDIT]
    assert all(relative_distance(deltas[LAYER_SYNCHRONOUS][layer], reference[layer]) < 1e-10 for layer in (0, 1))
    assert relative_distance(deltas[ONE_SHOT][0], reference[0]) < 1e-10
    assert relative_distance(deltas[ONE_SHOT][1], reference[1]) > 1e-3
    records = []
    for method in (LAYER_SYNCHRONOUS, GLOBAL_EDIT):
        with cohort.model.apply(deltas[method]):
            records.append(evaluate_zsre(cohort.model, REQUESTS).records)
    assert records[0] == records[1]


def test_task_arithmetic_adds_and_simple_average_divides(cohort):
    updates = edit_alone(cohort)
    total = {layer: updates[0][layer] + updates[1][layer] + updates[2][layer] for layer in (0, 1)}
    for method, scale in ((SIMPLE_AVERAGE, 1 / 3), (TASK_ARITHMETIC[0], 1.0), (TASK_ARITHMETIC[1], 0.4)):
        merged = method.merge(updates)
        for layer in (0, 1):
            np.testing.assert_allclose(merged[layer], scale * total[layer], rtol=1e-12, atol=1e-15)


def test_ties_of_collabedit_trims_each_layer_by_itself():
    # Over both layers together the large one would keep everything: k = 50% of 4 entries are its 2.
    updates = [{0: np.array([[2.0, 1.0]]), 1: np.array([[40.0, 30.0]])}]
    merged = ties_by_layer(updates, keep=0.5, scale=0.4)
    np.testing.assert_allclose(merged[0], [[0.8, 0.0]])
    np.testing.assert_allclose(merged[1], [[16.0, 0.0]])
    assert [str(setting) for setting in TIES_OF_COLLABEDIT.settings] == ["k = 0.2", "λ = 0.4"]


def test_every_method_has_a_row_of_its_own_and_leaves_the_model_as_it_was(cohort):
    weights = cohort.model.weights_digest()
    rows = {method: row for method, _, row in measure(cohort, asked(METHODS))}
    assert cohort.model.weights_digest() == weights
    assert list(rows) == list(METHODS)
    assert len({row.name for row in rows.values()}) == len(METHODS)
    assert all([figure.name for figure in row.figures] == ["ES", "PS", "NS", "Score"] for row in rows.values())
    assert (rows[BEFORE].clients, rows[BEFORE].edits, rows[BEFORE].is_reference) == (0, 0, True)
    assert (rows[ONE_SHOT].clients, rows[ONE_SHOT].edits, rows[ONE_SHOT].is_reference) == (3, 2, False)
    assert rows[LAYER_SYNCHRONOUS].figures == rows[GLOBAL_EDIT].figures


def test_rows_that_are_known_are_not_measured_again(cohort):
    expected = row(score=0.5)
    told = []
    found = list(measure(cohort, asked(METHODS), known=lambda *_: expected, editing=told.append))
    assert found == [(method, COUNTERFACT, expected) for method in METHODS]
    assert told == []


def test_own_updates_are_made_once_for_all_methods_that_merge_them(cohort):
    told = []
    list(measure(cohort, asked((SIMPLE_AVERAGE, *TASK_ARITHMETIC), ZSRE), editing=told.append))
    assert len(told) == 3 * 2  # clients × layers


def test_a_methods_update_is_made_once_for_all_that_is_asked_of_it(cohort):
    told = []
    texts = written_texts(None, seed=0, name="texts")
    steps = [(GLOBAL_EDIT, COUNTERFACT), (GLOBAL_EDIT, texts), (ONE_SHOT, texts)]
    rows = [row for _, _, row in measure(cohort, steps, editing=told.append)]
    assert len(told) == 2 + 2 * 3  # layers in one place; layers × clients
    assert [figure.name for figure in joined(rows[:2]).figures] == ["ES", "PS", "NS", "Score", "NE", "RS"]
    assert rows[0].figure("NE") is None
    assert rows[1].figure("NE").value > 0


def test_steps_may_hang_on_the_rows_before_them(cohort):
    rows = {}

    def steps():
        yield from asked(TASK_ARITHMETIC)
        yield best_of(rows), ZSRE

    for method, evaluation, row in measure(cohort, steps()):
        rows |= {method: row} if evaluation is COUNTERFACT else {}
    assert evaluation is ZSRE
    assert method is best_of(rows)


def test_any_number_of_clients(tiny_editable, cohort):
    values = np.ones((6, tiny_editable.d_model))
    assert [len(client.requests) for client in deal(REQUESTS, values, num_clients=1, edits_per_client=6).values()] == [
        6
    ]
    dealt = deal(REQUESTS, np.arange(6.0)[:, None], num_clients=2, edits_per_client=2)
    assert [request.case_id for request in dealt[2].requests] == [2, 3]
    np.testing.assert_array_equal(dealt[2].values, [[2.0], [3.0]])
    with pytest.raises(TooFewRequests):
        deal(REQUESTS, values, num_clients=3, edits_per_client=3)


def test_the_best_has_the_highest_score_and_is_the_first_of_equals():
    rows = {"a": row(score=0.2), "b": row(score=None), "c": row(score=0.7), "d": row(score=0.7)}
    assert best_of(rows) == "c"
    assert best_of({"b": rows["b"]}) == "b"
    with pytest.raises(ValueError, match="found no row"):
        best_of({})


def test_sweeps_hold_the_settings_of_the_table_and_none_twice():
    assert {method.settings for method in TASK_ARITHMETIC} <= {method.settings for method in TASK_ARITHMETIC_SWEEP}
    assert METHODS[-2].settings in {method.settings for method in TIES_SWEEP}
    for sweep in SWEEPS:
        assert len({method.settings for method in sweep}) == len(sweep)


def test_figure_1_has_a_line_for_each_method_in_the_order_of_edits():
    plot = plot_scores(
        [row("A", 0.5, edits=20), row("B", 0.25, edits=10), row("A", 0.75, edits=10), row("A", None, edits=30)],
        title="Figure 1",
    )
    assert [(line.label, line.x, line.y) for line in plot.series] == [
        ("A", (10.0, 20.0), (0.75, 0.5)),
        ("B", (10.0,), (0.25,)),
    ]


def test_what_is_measured_over_repeats_is_the_papers_recursion_where_one_layer_is_edited(cohort_of):
    # And one context: with more, keys are means over them, but the residual is of the clean prompt alone.
    cohort = cohort_of(layers=(1,), templates=ContextTemplates(groups=(("{}",),)))
    measured = residuals_over_repeats(cohort, repeats=3)
    predicted = predicted_over_repeats(cohort, repeats=3)
    np.testing.assert_allclose(measured[1], predicted[1], rtol=1e-9)
    assert (np.diff(measured[1]) < 0).all()


def test_figure_3_shows_what_was_measured_beside_what_was_predicted(cohort):
    kept = []
    measured = residuals_over_repeats(cohort, repeats=2, keep=kept.append)
    plot = plot_residuals(measured, predicted_over_repeats(cohort, repeats=2), title="Figure 3")
    assert [line.label for line in plot.series] == [
        "layer 0, measured",
        "layer 1, measured",
        "layer 0, predicted",
        "layer 1, predicted",
    ]
    assert all(line.x == (0.0, 1.0, 2.0) for line in plot.series)
    assert plot.series[0].y[0] == pytest.approx(plot.series[2].y[0], rel=1e-12)  # before any edit they are the same
    assert [repeated.times for repeated in kept] == [1, 2, 3]


def test_edits_that_were_repeated_some_times_go_on_from_there(cohort):
    kept = []
    whole = residuals_over_repeats(cohort, repeats=3, keep=kept.append)
    rest = []
    found = residuals_over_repeats(cohort, repeats=3, since=kept[1], keep=rest.append)
    assert [repeated.times for repeated in rest] == [3, 4]
    for layer in (0, 1):
        np.testing.assert_array_equal(found[layer], whole[layer])


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """10 clients with 15 edits each, for which λ = 600 is the paper's ratio: 4 times the edits. And with 30.

    As `collabsecure reproduce` has them: what is summed goes through the secure sum.
    """
    from collabsecure_cli.attack_target import Target
    from collabsecure_cli.reproduce_target import Ground

    ground = Ground.load(Target.of(None, None, None, None, device="cpu", seed=0), data="counterfact")
    assert ground.hyperparameters.second_moment_weight == 4 * 10 * 15
    values = tmp_path_factory.mktemp("values")
    return {edits: ground.cohort(num_clients=10, edits_per_client=edits, cache=values) for edits in (15, 30)}


def references():
    from collabsecure.references import References
    from collabsecure.world import load_world
    from collabsecure.world.articles import snippets
    from collabsecure.world.facts import Facts

    return References.match(json.loads(load_world().records.read_text()), snippets(Facts.make()))


@pytest.mark.slow
def test_on_the_small_world_collabedit_is_global_edit_to_the_last_record_and_word(small_world):
    cohort = small_world[15]
    requests = [request for client in cohort.clients.values() for request in client.requests]
    questions = [replace(request, target_true=None) for request in requests]
    found, answers = [], []
    for method in (LAYER_SYNCHRONOUS, GLOBAL_EDIT):
        with cohort.model.apply(method.edit(cohort, None)):
            found.append(counterfact_with_texts(references(), seed=0).find(cohort.model, requests, None))
            answers.append(evaluate_zsre(cohort.model, questions))
    assert len(found[0]) == 150
    assert answers[0] == answers[1]  # zsRE's metrics of the same edits, record by record
    for one, other in zip(*found, strict=True):
        for name in ("es", "ps", "ns"):
            assert getattr(one.comparisons, name) == getattr(other.comparisons, name)
        assert one.generation == other.generation  # NE, RS, and the texts themselves
        assert None not in (one.generation.ne, one.generation.rs)


@pytest.mark.slow
def test_on_the_small_world_the_methods_stand_as_in_the_paper(small_world):
    wanted = (GLOBAL_EDIT, LAYER_SYNCHRONOUS, *METHODS[4:])
    scores = {
        edits: {row.name: row.figure("Score").value for _, _, row in measure(cohort, asked(wanted))}
        for edits, cohort in small_world.items()
    }
    behind = {edits: found["GLOBAL-EDIT"] - found["TASK-ARITHMETIC (λ = 1)"] for edits, found in scores.items()}
    assert 0 < behind[15] < behind[30] - 0.05  # Task-Arithmetic falls behind as edits grow
    for found in scores.values():
        assert found["COLLABEDIT (layer-synchronous)"] == found["GLOBAL-EDIT"] > 0.85
        assert found["SIMPLE-AVERAGE"] < 0.05
        assert found["TIES-MERGING (k = 0.2, λ = 1)"] < 0.25
        assert found["TIES-MERGING (k = 0.2, λ = 0.4, each layer trimmed by itself)"] < 0.05


@pytest.mark.slow
def test_on_the_small_world_the_residual_falls_each_time(small_world):
    for norms in residuals_over_repeats(small_world[15], repeats=5).values():
        assert all(later < earlier for earlier, later in itertools.pairwise(norms))

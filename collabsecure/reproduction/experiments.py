"""The paper's experiments: every method on one cohort (Table 1), more and more edits (Figure 1), again and again (3).

Rows come one by one, so that who runs hours of them can keep each and go on from there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from collabsecure.edits import EditRequest, split_among_clients
from collabsecure.errors import TooFewRequests
from collabsecure.evaluate import CounterfactScores, ZsreScores, evaluate_counterfact, evaluate_zsre
from collabsecure.evaluate import Progress as Reading
from collabsecure.keys import compute_keys, compute_residuals
from collabsecure.layers import EditableModel
from collabsecure.merge import merge_delta
from collabsecure.merging import Update
from collabsecure.overlap import residual_norms
from collabsecure.reproduction.methods import Cohort, Editing, Merging, edit_alone
from collabsecure.reproduction.results import Plot, Row, Series
from collabsecure.simulation import Client, Deltas, pooled
from collabsecure.statistics import cross, gram

Scores = CounterfactScores | ZsreScores
Metrics = Literal["counterfact", "zsre"]
Known = Callable[[Editing | Merging], Row | None]  # a row that was found before


def nothing_known(method: Editing | Merging) -> Row | None:
    """No run came before."""
    return None


def deal(
    requests: Sequence[EditRequest],
    values: Float64[np.ndarray, "num_requests d_model"],
    *,
    num_clients: int,
    edits_per_client: int,
) -> dict[int, Client]:
    """The first requests with their values, as many to each client.

    Raises:
        TooFewRequests: there are not so many.
    """
    needed = num_clients * edits_per_client
    if min(len(requests), len(values)) < needed:
        raise TooFewRequests(num_requests=len(requests), num_clients=num_clients)
    parts = split_among_clients(requests[:needed], num_clients)
    starts = np.cumsum([0, *map(len, parts)])
    return {
        number: Client(requests=part, values=values[start : start + len(part)])
        for number, (start, part) in enumerate(zip(starts, parts, strict=False), 1)
    }


def score(
    model: EditableModel,
    deltas: Update,
    requests: Sequence[EditRequest],
    *,
    metrics: Metrics,
    progress: Reading | None = None,
) -> Scores:
    """What the model with an update in it scores on the records, by CounterFact's metrics or zsRE's (`metrics`)."""
    evaluate = evaluate_zsre if metrics == "zsre" else evaluate_counterfact
    with model.apply(deltas):
        return evaluate(model, requests, progress=progress)


def measure(
    cohort: Cohort,
    methods: Iterable[Editing | Merging],
    *,
    metrics: Metrics,
    known: Known = nothing_known,
    editing: Callable[[int], None] | None = None,
    evaluating: Reading | None = None,
) -> Iterator[tuple[Editing | Merging, Row]]:
    """Each method's row: everybody's edits made by it, and the model then asked about all of them.

    `known` gives rows that were found before; they are passed on. Each client's own updates are computed once, when a
    method first needs them, and held: N updates of all layers. `editing` is told of each finished (client, layer),
    `evaluating` how much has been asked.

    Raises:
        NotPositiveDefinite: an update cannot be solved for.
        SumAborted: the secure sum ended without a result.
    """
    requests = [request for client in cohort.clients.values() for request in client.requests]
    edits = max(len(client.requests) for client in cohort.clients.values())
    own: tuple[Deltas, ...] | None = None
    for method in methods:
        row = known(method)
        if row is None:
            deltas: Deltas
            if isinstance(method, Merging):
                own = own or edit_alone(cohort, editing)
                deltas = method.merge(own)
            else:
                deltas = method.edit(cohort, editing)
            scores = score(cohort.model, deltas, requests, metrics=metrics, progress=evaluating)
            row = Row(
                method=method.name,
                settings=method.settings,
                note=method.note,
                is_reference=method.is_reference,
                clients=len(cohort.clients) if deltas else 0,
                edits=edits if deltas else 0,
                figures=scores.figures(),
            )
        yield method, row


def best_of(rows: Sequence[Row]) -> Row:
    """The row with the highest Score, the first of several; its note says of how many.

    It was chosen on the records that it is measured on: no validation could do better.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("found no row; expected one at least")
    return replace(max(rows, key=_score), note=f"best of {len(rows)}")


def _score(row: Row) -> float:
    figure = row.figure("Score")
    return -1.0 if figure is None or figure.value is None else figure.value


def plot_scores(rows: Iterable[Row], *, title: str) -> Plot:
    """Figure 1: each method's Score against the edits of each client. Rows without a Score are left out."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.name, []).append(row)
    series = []
    for label, found in lines.items():
        points = sorted((row.edits, figure) for row in found if (figure := row.figure("Score")) is not None)
        whole = [(edits, figure.value, figure.interval) for edits, figure in points]
        complete = [(x, y, interval) for x, y, interval in whole if y is not None and interval is not None]
        series.append(
            Series(
                label=label,
                x=tuple(float(x) for x, _, _ in complete),
                y=tuple(y for _, y, _ in complete),
                intervals=tuple(interval for _, _, interval in complete),
            )
        )
    return Plot(title=title, x_label="edits of each client", y_label="Score", series=tuple(series))


def residuals_over_repeats(
    cohort: Cohort, *, repeats: int, progress: Callable[[int], None] | None = None
) -> Mapping[int, Float64[np.ndarray, " {repeats}+1"]]:
    """Layer → ‖R‖ (Frobenius) as the model is edited again and again with the same requests, measured on the model.

    Element i is what there was to write at that layer after i whole edits, all of the cohort's requests in one place:
    each is MEMIT over all layers on the model that the edits before have left. `progress` is told of each edit.

    Raises:
        NotPositiveDefinite: an update cannot be solved for.
    """
    pool, layers = pooled(list(cohort.clients.values())), sorted(cohort.second_moments)
    norms: dict[int, list[float]] = {layer: [] for layer in layers}
    written: Deltas = {}
    for _ in range(repeats + 1):
        for layer in layers:
            with cohort.model.apply(written):
                keys = compute_keys(cohort.model, pool.requests, cohort.templates, layer)
                residuals = compute_residuals(cohort.model, pool.requests, pool.values, layer, layers)
            norms[layer].append(float(np.linalg.norm(residuals)))
            delta = merge_delta(cohort.second_moments[layer], gram(keys), cross(residuals, keys))
            written[layer] = written[layer] + delta if layer in written else delta
        if progress is not None:
            progress(1)
    return {layer: np.array(found) for layer, found in norms.items()}


def predicted_over_repeats(cohort: Cohort, *, repeats: int) -> Mapping[int, Float64[np.ndarray, " {repeats}+1"]]:
    """Layer → ‖R‖ by the recursion R − R Kᵀ(C + KKᵀ)⁻¹K (`residual_norms`), from the unedited model alone.

    It is of a layer that is edited by itself: K stays, and nothing else writes R.

    Raises:
        NotPositiveDefinite: C + KKᵀ is not.
    """
    pool, layers = pooled(list(cohort.clients.values())), sorted(cohort.second_moments)
    return {
        layer: residual_norms(
            cohort.second_moments[layer],
            compute_keys(cohort.model, pool.requests, cohort.templates, layer),
            compute_residuals(cohort.model, pool.requests, pool.values, layer, layers),
            repeats=repeats,
        )
        for layer in layers
    }


def plot_residuals(
    measured: Mapping[int, Float64[np.ndarray, " edits"]],
    predicted: Mapping[int, Float64[np.ndarray, " edits"]],
    *,
    title: str,
) -> Plot:
    """Figure 3: ‖R‖ against how often the same edits were made."""
    kinds = (("measured", measured), ("by the recursion, edited alone", predicted))
    series = tuple(
        Series(
            label=f"layer {layer}, {kind}",
            x=tuple(float(times) for times in range(len(norms))),
            y=tuple(float(norm) for norm in norms),
        )
        for kind, norms_of in kinds
        for layer, norms in norms_of.items()
    )
    return Plot(title=title, x_label="times edited", y_label="‖R‖", series=series)

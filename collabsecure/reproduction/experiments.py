"""The paper's experiments: every method on one cohort (Table 1), more and more edits (Figure 1), again and again (3).

Rows come one by one, so that who runs hours of them can keep each and go on from there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

from collabsecure.edits import EditRequest, split_among_clients
from collabsecure.errors import TooFewRequests
from collabsecure.evaluate import CounterfactScores, ZsreScores, evaluate_counterfact, evaluate_zsre
from collabsecure.evaluate import Progress as Asking
from collabsecure.evaluate.generation import GenerationScores, evaluate_generation
from collabsecure.keys import compute_keys, compute_residuals
from collabsecure.layers import EditableModel
from collabsecure.merge import merge_delta
from collabsecure.overlap import residual_norms
from collabsecure.references import References
from collabsecure.reproduction.methods import Cohort, Editing, Merging, edit_alone
from collabsecure.reproduction.results import Plot, Row, Series
from collabsecure.simulation import Client, Deltas, pooled
from collabsecure.statistics import cross, gram

Scores = CounterfactScores | ZsreScores | GenerationScores
Ask = Callable[[EditableModel, Sequence[EditRequest], Asking | None], Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Some of a row's figures: how they are measured."""

    name: str  # two of the same name give a method the same figures
    ask: Ask
    effort: int = 1  # time it takes, in that of CounterFact's comparisons; for progress alone


COUNTERFACT = Evaluation(
    name="counterfact",
    ask=lambda model, requests, progress: evaluate_counterfact(model, requests, progress=progress),
)
ZSRE = Evaluation(
    name="zsre",
    ask=lambda model, requests, progress: evaluate_zsre(model, requests, progress=progress),
)

Step = tuple[Editing | Merging, Evaluation]
Known = Callable[[Editing | Merging, Evaluation], Row | None]  # a row that was found before


def written_texts(references: References | None, *, seed: int, name: str) -> Evaluation:
    """NE and, where there are references, RS of CounterFact's texts; `seed` is theirs, and `name` says so."""
    return Evaluation(
        name=name,
        ask=lambda model, requests, progress: evaluate_generation(
            model, requests, references, seed=seed, progress=progress
        ),
        effort=6,  # as measured on the small world
    )


def nothing_known(method: Editing | Merging, evaluation: Evaluation) -> Row | None:
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


def measure(
    cohort: Cohort,
    steps: Iterable[Step],
    *,
    known: Known = nothing_known,
    editing: Callable[[int], None] | None = None,
    evaluating: Asking | None = None,
) -> Iterator[tuple[Editing | Merging, Evaluation, Row]]:
    """Each step's row: everybody's edits made by its method, and the model then asked about all of them.

    `steps` may be a generator that looks at the rows so far. `known` gives rows that were found before; they are passed
    on. Each client's own updates are computed once, when a method first needs them, and held: N updates of all layers;
    so is a method's update for as long as the steps are its own. `editing` is told of each finished (client, layer),
    `evaluating` how much has been asked.

    Raises:
        NotPositiveDefinite: an update cannot be solved for.
        SumAborted: the secure sum ended without a result.
    """
    requests = [request for client in cohort.clients.values() for request in client.requests]
    edits = max(len(client.requests) for client in cohort.clients.values())
    own: tuple[Deltas, ...] | None = None
    current: tuple[Editing | Merging, Deltas] | None = None
    for method, evaluation in steps:
        row = known(method, evaluation)
        if row is None:
            if current is not None and current[0] is method:
                deltas = current[1]
            elif isinstance(method, Merging):
                own = own or edit_alone(cohort, editing)
                deltas = method.merge(own)
            else:
                deltas = method.edit(cohort, editing)
            current = method, deltas
            with cohort.model.apply(deltas):
                scores = evaluation.ask(cohort.model, requests, evaluating)
            row = Row(
                method=method.name,
                settings=method.settings,
                note=method.note,
                is_reference=method.is_reference,
                clients=len(cohort.clients) if deltas else 0,
                edits=edits if deltas else 0,
                figures=scores.figures(),
            )
        yield method, evaluation, row


def joined(rows: Sequence[Row]) -> Row:
    """One row with all figures, of one method's rows by several evaluations."""
    return replace(rows[0], figures=tuple(figure for row in rows for figure in row.figures))


Kind = TypeVar("Kind")


def best_of(rows: Mapping[Kind, Row]) -> Kind:
    """Whose row has the highest Score, the first of several.

    It is chosen on the records that it is measured on: no validation could choose better among these.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("found no row; expected one at least")
    return max(rows, key=lambda kind: _score(rows[kind]))


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repeated:
    """The same edits made again and again, so far: enough to go on from."""

    norms: Mapping[int, tuple[float, ...]]  # layer → ‖R‖ (Frobenius) before each edit; all layers have as many
    written: Deltas  # what all edits together have written; no layer before the first

    @property
    def times(self) -> int:
        """How often the edits were made."""
        return len(next(iter(self.norms.values()), ()))


def residuals_over_repeats(
    cohort: Cohort, *, repeats: int, since: Repeated | None = None, keep: Callable[[Repeated], None] | None = None
) -> Mapping[int, Float64[np.ndarray, " {repeats}+1"]]:
    """Layer → ‖R‖ (Frobenius) as the model is edited again and again with the same requests, measured on the model.

    Element i is what there was to write at that layer after i whole edits, all of the cohort's requests in one place:
    each is MEMIT over all layers on the model that the edits before have left. `keep` is given what there is after
    each edit; with it as `since`, another run goes on from there.

    Raises:
        NotPositiveDefinite: an update cannot be solved for.
    """
    pool, layers = pooled(list(cohort.clients.values())), sorted(cohort.second_moments)
    norms = {layer: list(since.norms[layer] if since else ()) for layer in layers}
    written: Deltas = dict(since.written) if since else {}
    for _ in range(since.times if since else 0, repeats + 1):
        for layer in layers:
            with cohort.model.apply(written):
                keys = compute_keys(cohort.model, pool.requests, cohort.templates, layer)
                residuals = compute_residuals(cohort.model, pool.requests, pool.values, layer, layers)
            norms[layer].append(float(np.linalg.norm(residuals)))
            delta = merge_delta(cohort.second_moments[layer], gram(keys), cross(residuals, keys))
            written[layer] = written[layer] + delta if layer in written else delta
        if keep is not None:
            keep(Repeated(norms={layer: tuple(found) for layer, found in norms.items()}, written=dict(written)))
    return {layer: np.array(found[: repeats + 1]) for layer, found in norms.items()}


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
    """Figure 3: ‖R‖ against how often the same edits were made.

    What is predicted is of each layer as if it alone were edited (`predicted_over_repeats`).
    """
    kinds = (("measured", measured), ("predicted", predicted))
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

"""The methods of the paper's Table 1, each one function from what clients have to the update Δ, for any number of them.

    GLOBAL-EDIT       MEMIT with all requests in one place: what the others are measured by
    COLLABEDIT        the exact merge of summed statistics (eq. 3), layer by layer, or all layers from one sum
    SIMPLE-AVERAGE, TASK-ARITHMETIC, TIES-MERGING
                      merges of finished updates: of what each client's own MEMIT gives over all layers, each of its
                      layers edited on top of its own edits below (`edit_alone`)

Task-Arithmetic and TIES have parameters. What the paper's public code has is here beside what the methods' authors
have; and sweeps, whose best is named as what it is: chosen on the records that it is measured on, so that no choice
made beforehand could do better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from collabsecure.layers import EditableModel
from collabsecure.merging import Update, simple_average, task_arithmetic, ties
from collabsecure.reproduction.results import Setting
from collabsecure.simulation import (
    Client,
    Deltas,
    Flow,
    Moments,
    PlainSummation,
    Summation,
    edit_globally,
    edit_together,
)
from collabsecure.templates import ContextTemplates

Progress = Callable[[int], None]  # told of each finished (client, layer)


def in_the_clear(flow: Flow) -> Summation:
    """No secure sum: what it would give but for its rounding."""
    return PlainSummation()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """Clients that edit one model, with what they agree on."""

    model: EditableModel
    clients: Mapping[int, Client]
    templates: ContextTemplates
    second_moments: Moments  # layer → C, weighted
    summation: Callable[[Flow], Summation] = in_the_clear


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method with its parameters, as a row of a table names it."""

    name: str
    settings: tuple[Setting, ...] = ()
    note: str = ""
    is_reference: bool = False  # beside the methods, not among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Editing(Method):
    """One that edits: it needs the model and everybody's statistics."""

    edit: Callable[[Cohort, Progress | None], Deltas]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging(Method):
    """One that merges the clients' finished updates, and sees nothing else."""

    merge: Callable[[Sequence[Update]], Deltas]


def edit_alone(cohort: Cohort, progress: Progress | None = None) -> tuple[Deltas, ...]:
    """Each client's own MEMIT over all layers, as if the others did not exist: Δᵢ = RᵢKᵢᵀ(C + KᵢKᵢᵀ)⁻¹ at each layer.

    Raises:
        NotPositiveDefinite: C + KᵢKᵢᵀ is not, at some layer.
    """
    return tuple(
        edit_globally(cohort.model, {number: client}, cohort.templates, cohort.second_moments, progress=progress)
        for number, client in cohort.clients.items()
    )


def ties_by_layer(updates: Sequence[Update], *, keep: float, scale: float) -> Deltas:
    """TIES on each layer by itself, as the paper's public code does; `ties` trims over all layers together.

    Raises:
        ModelMismatch: the updates' layers or shapes are not the same.
        ValueError: there is no update, one has NaN or infinite entries, or `keep` is not in (0, 1].
    """
    return {
        layer: ties([{layer: update[layer]} for update in updates], keep=keep, scale=scale)[layer]
        for layer in updates[0]
    }


def _not_at_all(cohort: Cohort, progress: Progress | None) -> Deltas:
    return {}


def _globally(cohort: Cohort, progress: Progress | None) -> Deltas:
    return edit_globally(cohort.model, cohort.clients, cohort.templates, cohort.second_moments, progress=progress)


def _together(flow: Flow) -> Editing:
    def edit(cohort: Cohort, progress: Progress | None) -> Deltas:
        return edit_together(
            cohort.model,
            cohort.clients,
            cohort.templates,
            cohort.second_moments,
            cohort.summation(flow),
            flow=flow,
            progress=progress,
        ).deltas

    return Editing(name="COLLABEDIT", note=flow, edit=edit)


def _task_arithmetic(scale: float) -> Merging:
    return Merging(
        name="TASK-ARITHMETIC",
        settings=(Setting(name="λ", value=scale),),
        merge=lambda updates: task_arithmetic(updates, scale=scale),
    )


def _ties(keep: float, scale: float, *, by_layer: bool = False) -> Merging:
    merge = ties_by_layer if by_layer else ties
    return Merging(
        name="TIES-MERGING",
        settings=(Setting(name="k", value=keep), Setting(name="λ", value=scale)),
        note="each layer trimmed by itself" if by_layer else "",
        merge=lambda updates: merge(updates, keep=keep, scale=scale),
    )


BEFORE = Editing(name="before", is_reference=True, edit=_not_at_all)
GLOBAL_EDIT = Editing(name="GLOBAL-EDIT", is_reference=True, edit=_globally)
LAYER_SYNCHRONOUS = _together("layer-synchronous")
ONE_SHOT = _together("one-shot")
SIMPLE_AVERAGE = Merging(name="SIMPLE-AVERAGE", merge=simple_average)
# λ = 1 is the paper's public code's; 0.4 is what TIES' authors give Task-Arithmetic where nothing can be validated.
TASK_ARITHMETIC = (_task_arithmetic(1.0), _task_arithmetic(0.4))
TIES_DEFAULT = _ties(0.2, 1.0)  # its authors'
TIES_OF_COLLABEDIT = _ties(0.2, 0.4, by_layer=True)  # the paper's public code's

METHODS: tuple[Editing | Merging, ...] = (
    BEFORE,
    GLOBAL_EDIT,
    LAYER_SYNCHRONOUS,
    ONE_SHOT,
    SIMPLE_AVERAGE,
    *TASK_ARITHMETIC,
    TIES_DEFAULT,
    TIES_OF_COLLABEDIT,
)
# Task-Arithmetic's λ goes up to 1, as its authors'; TIES' k and λ further than theirs (10, 20 and 30%, up to 3): ten
# clients with different facts are not ten models of tasks, and too small a k or λ must not be why merging fails.
TASK_ARITHMETIC_SWEEP = tuple(_task_arithmetic(tenths / 10) for tenths in range(1, 11))
TIES_SWEEP = tuple(_ties(keep, scale) for keep in (0.1, 0.2, 0.3, 1.0) for scale in (1.0, 2.0, 3.0, 5.0))
SWEEPS: tuple[tuple[Merging, ...], ...] = (TASK_ARITHMETIC_SWEEP, TIES_SWEEP)

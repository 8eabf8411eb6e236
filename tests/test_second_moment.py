"""Second moments: exact against a float64 oracle one text at a time, and resumed runs equal to uninterrupted ones."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from collabsecure import second_moment
from collabsecure.errors import BadFile, ModelMismatch
from collabsecure.layers import EditableModel
from collabsecure.second_moment import compute_second_moments

WORDS = "The capital of Norland is Ostrava, and Ada Quill plays the piano in Köln".split()


def texts(number: int = 40) -> list[str]:
    """Of all lengths: empty ones, and some beyond the model's context of 128 tokens."""
    rng = np.random.default_rng(3)
    lengths = [0, 200, 1, *rng.integers(1, 60, number)][:number]
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def oracle(model: EditableModel, layer: int, samples: list[str]) -> tuple[np.ndarray, int]:
    """Σ k kᵀ and the number of tokens: no batches, no padding, all in float64."""
    total, count = np.zeros((model.d_in(layer), model.d_in(layer))), 0
    for text in samples:
        tokens = model.tokenizer(text)["input_ids"][:128]
        if tokens:
            with torch.no_grad(), model.projection_inputs([layer]) as keys:
                model.model(input_ids=torch.tensor([tokens]))
            key = keys[layer][0].double().numpy()
            total, count = total + key.T @ key, count + len(tokens)
    return total, count


def of_scale(difference: np.ndarray, total: np.ndarray) -> float:
    """The largest error as a part of √(C_ii C_jj)."""
    scale = np.sqrt(total.diagonal())
    return float(np.abs(difference / np.outer(scale, scale)).max())


@pytest.mark.parametrize("batch_tokens", [128, 500, 4096])
def test_every_layer_agrees_with_a_float64_oracle_whatever_the_batches(tiny_editable, batch_tokens):
    moments = compute_second_moments(tiny_editable, texts(), [2, 0, 1], batch_tokens=batch_tokens)
    assert list(moments) == [0, 1, 2]
    for layer, moment in moments.items():
        total, count = oracle(tiny_editable, layer, texts())
        assert (moment.count, moment.sample_size) == (count, 40)
        assert of_scale(moment.total - total, total) < 1e-6
        assert (moment.total == moment.total.T).all()


def test_a_text_longer_than_a_batch_is_cut_off_there(tiny_editable):
    (moment,) = compute_second_moments(tiny_editable, [texts()[1]], [0], batch_tokens=50).values()
    assert moment.count == 50


def test_samples_are_texts_and_none_beyond_is_read(tiny_editable):
    def source() -> Iterator[str]:
        yield from texts(10)
        raise AssertionError("read one too many")

    (moment,) = compute_second_moments(tiny_editable, source(), [1], sample_size=10).values()
    assert (moment.count, moment.sample_size) == (oracle(tiny_editable, 1, texts(10))[1], 10)


def test_fewer_texts_than_asked_for_are_recorded_as_what_they_were(tiny_editable):
    (moment,) = compute_second_moments(tiny_editable, texts(10), [1], sample_size=100_000).values()
    assert moment.sample_size == 10


def test_one_pass_serves_all_layers_and_stays_below_the_upper_ones_and_within_the_batch(tiny_editable):
    compute_second_moments(tiny_editable, texts(), [0], sample_size=3)  # the model is probed for its blocks' form once
    passes: list[int] = []
    ran: list[int] = []
    hooks = [
        tiny_editable.block(0).register_forward_pre_hook(lambda _, args: passes.append(args[0][..., 0].numel())),
        tiny_editable.block(2).mlp.register_forward_pre_hook(lambda _, args: ran.append(2)),
    ]
    compute_second_moments(tiny_editable, texts(), [0, 1], batch_tokens=300)
    both, passes[:] = list(passes), []
    compute_second_moments(tiny_editable, texts(), [0], batch_tokens=300)
    for hook in hooks:
        hook.remove()
    tiny_editable.model(input_ids=torch.tensor([[1, 2]]))  # hooks and skipped blocks are gone
    assert both == passes
    assert max(passes) <= 300
    assert not ran


def test_progress_starts_at_once_and_ends_with_all_texts(tiny_editable):
    told: list[int] = []
    compute_second_moments(tiny_editable, texts(), [0], sample_size=30, batch_tokens=200, progress=told.append)
    assert told[0] == 0
    assert told[-1] == 30
    assert told == sorted(told)
    assert len(told) > 5


class Interrupting:
    """Progress that is interrupted with Ctrl-C after some texts."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.told: list[int] = []

    def __call__(self, num_texts: int) -> None:
        self.told.append(num_texts)
        if num_texts > self.after:
            raise KeyboardInterrupt


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moment, "_TEXTS_AT_ONCE", 8)
    monkeypatch.setattr(second_moment, "_CHECKPOINT_SHARE", 0)


@pytest.mark.usefixtures("small_windows")
def test_interrupted_run_goes_on_to_the_same_sums_bit_for_bit(tiny_editable, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = compute_second_moments(tiny_editable, texts(), [0, 2], batch_tokens=300)
    resumed_at = []
    for after in (17, 17, 30):  # the second is interrupted inside the window where the first was
        interrupting = Interrupting(after)
        with pytest.raises(KeyboardInterrupt):
            compute_second_moments(
                tiny_editable,
                texts(),
                [0, 2],
                batch_tokens=300,
                checkpoint=checkpoint,
                checkpoint_seconds=0.0,
                progress=interrupting,
            )
        resumed_at.append(interrupting.told[0])
    last = Interrupting(1000)
    resumed = compute_second_moments(
        tiny_editable, texts(), [0, 2], batch_tokens=300, checkpoint=checkpoint, progress=last
    )
    assert [*resumed_at, last.told[0]] == [0, 16, 16, 24]
    for layer, moment in whole.items():
        assert (resumed[layer].total == moment.total).all()
        assert (resumed[layer].count, resumed[layer].sample_size) == (moment.count, moment.sample_size)


@pytest.mark.usefixtures("small_windows")
def test_finished_run_is_kept_and_a_larger_sample_goes_on_from_it(tiny_editable, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    compute_second_moments(tiny_editable, texts(), [1], sample_size=24, checkpoint=checkpoint)
    told: list[int] = []
    (more,) = compute_second_moments(
        tiny_editable, texts(), [1], sample_size=40, checkpoint=checkpoint, progress=told.append
    ).values()
    (fresh,) = compute_second_moments(tiny_editable, texts(), [1]).values()
    assert told[0] == 24
    assert (more.total == fresh.total).all()
    assert more.sample_size == fresh.sample_size == 40


def test_checkpoint_of_another_run_is_refused_with_what_differs(tiny_editable, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"

    def go(samples: list[str], layers: list[int], batch_tokens: int = 300) -> None:
        compute_second_moments(tiny_editable, samples, layers, batch_tokens=batch_tokens, checkpoint=checkpoint)

    go(texts(), [1])
    before = checkpoint.read_bytes()
    with pytest.raises(BadFile, match=r"layers 1; expected layers 0,1\. To start anew, delete it"):
        go(texts(), [0, 1])
    with pytest.raises(BadFile, match="batch_tokens 300; expected batch_tokens 200"):
        go(texts(), [1], 200)
    with pytest.raises(BadFile, match="sums over 40 texts that are not the first of these"):
        go(["another", *texts()[1:]], [1])
    with pytest.raises(BadFile, match="sums over 40 texts"):
        go(texts()[:20], [1])
    tiny_editable.weight(1)[0, 0] += 1
    with pytest.raises(BadFile, match="weights_digest"):
        go(texts(), [1])
    assert checkpoint.read_bytes() == before


def test_damaged_checkpoint_is_refused(tiny_editable, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    compute_second_moments(tiny_editable, texts(), [1], checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    for content in (b"", b"no safetensors", whole[:-1]):
        checkpoint.write_bytes(content)
        with pytest.raises(BadFile, match=r"a damaged file.*delete it"):
            compute_second_moments(tiny_editable, texts(), [1], checkpoint=checkpoint)


def test_folder_that_is_gone_is_one_line(tiny_editable, tmp_path):
    with pytest.raises(BadFile, match="no such file or directory"):
        compute_second_moments(tiny_editable, texts(), [1], checkpoint=tmp_path / "gone" / "checkpoint.safetensors")


@pytest.mark.parametrize("samples", [[], ["", ""]])
def test_texts_without_tokens_are_refused(tiny_editable, samples):
    with pytest.raises(BadFile, match="without a single token"):
        compute_second_moments(tiny_editable, samples, [0])


@pytest.mark.parametrize(("layers", "sample_size", "batch_tokens"), [([], 1, 1), ([0], 0, 1), ([0], 1, 0)])
def test_arguments_that_ask_for_nothing_are_refused(tiny_editable, layers, sample_size, batch_tokens):
    with pytest.raises(ValueError, match="expected"):
        compute_second_moments(tiny_editable, texts(), layers, sample_size=sample_size, batch_tokens=batch_tokens)


def test_layer_that_the_model_has_not_is_refused(tiny_editable):
    with pytest.raises(ModelMismatch, match="layer 3"):
        compute_second_moments(tiny_editable, texts(), [0, 3])

"""Second moments of keys on ordinary text: one pass over the texts for all edited layers, in bounded memory.

MEMIT's C before its weight λ: E[k kᵀ] over all tokens of a sample of texts, k the input of a layer's MLP output
projection. What MEMIT calls `mom2_n_samples` (100 000) counts *texts*, each cut off at the model's context; the mean is
over their tokens. As there, no token is put in front of a text and padding is no part of the mean.

Each batch's k kᵀ are summed in float32, and these sums in float64. Keys carry float32's rounding anyway; over 600 000
tokens that came to 3e-8 of √(C_ii C_jj) against a float64 oracle, a sum kept in float32 throughout to 5e-7 and growing.
Products in float64 would take twice the time on a CPU and up to 64 times on a GPU.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from collabsecure.errors import BadFile, OutOfMemory
from collabsecure.files import unreadable, write_safetensors
from collabsecure.forward import running_up_to
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right
from collabsecure.statistics import SecondMoment, symmetrise

_TEXTS_AT_ONCE = 64  # are sorted by length and dealt into batches; a checkpoint falls between, never inside
_CHECKPOINT_FORMAT = "collabsecure second-moment checkpoint 1"
_CHECKPOINT_SHARE = 20  # work at least so many times as long as writing the last checkpoint took


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What has been summed so far, and over what."""

    totals: dict[int, Float64[Tensor, "_ _"]]  # layer → Σ k kᵀ
    count: int = 0  # tokens
    num_texts: int = 0
    texts_digest: str = field(default_factory=lambda: hashlib.sha256().hexdigest())  # chained over the texts


def compute_second_moments(
    model: EditableModel,
    texts: Iterable[str],
    layers: Collection[int],
    *,
    sample_size: int | None = None,
    batch_tokens: int = 4096,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, SecondMoment]:
    """Sum k kᵀ of the given layers over the tokens of the first `sample_size` texts, or of all.

    Memory: one float64 d_in × d_in matrix per layer, and `batch_tokens` tokens' activations; a text is cut off at
    `batch_tokens` or at the model's context, whichever is less. An empty text counts as a text without tokens.

    With a `checkpoint` file the sums are kept there every `checkpoint_seconds` and at the end, and a later call with
    the same model, layers and texts goes on where it stops, to the same result bit for bit; a larger `sample_size` may
    be asked for. The caller removes the file once the result is safe. `progress` is told the number of texts done: at
    once, then after every batch.

    Raises:
        BadFile: the checkpoint is damaged, cannot be written, or is of another model, other layers or other texts; or
            no text has any token.
        ModelMismatch: a layer that the model has not.
        OutOfMemory: `batch_tokens` tokens at a time are too many.
        ValueError: there are no layers, or `sample_size` or `batch_tokens` is below 1.
    """
    if not layers or batch_tokens < 1 or (sample_size is not None and sample_size < 1):
        raise ValueError(f"found layers {layers}, sample_size {sample_size}, batch_tokens {batch_tokens}; expected ≥ 1")
    layers = sorted(set(layers))
    longest = min(batch_tokens, getattr(model.model.config, "max_position_embeddings", None) or batch_tokens)
    remaining = islice(texts, sample_size)
    identity = {
        "format": _CHECKPOINT_FORMAT,
        "layers": ",".join(map(str, layers)),
        "weights_digest": model.weights_digest(layers),
        "batch_tokens": str(batch_tokens),  # decides how texts are cut off
    }
    sums = _Sums(totals={layer: _zeros(model, layer) for layer in layers})
    if checkpoint and checkpoint.exists():
        sums = _read_checkpoint(checkpoint, identity, sums.totals)
        _skip(remaining, sums, checkpoint)
    tell = progress or (lambda _: None)
    tell(sums.num_texts)
    saved_at, due = sums.num_texts, time.monotonic() + checkpoint_seconds
    with torch.inference_mode(), model.projection_inputs(layers) as keys, running_up_to(model, layers[-1]):
        while window := list(islice(remaining, _TEXTS_AT_ONCE)):
            done = sums.num_texts
            for rows in _batches(model, window, longest, batch_tokens):
                _add(model, rows, keys, sums)
                done += len(rows)
                tell(done)
            sums.num_texts += len(window)
            sums.texts_digest = _chain(sums.texts_digest, window)
            tell(sums.num_texts)
            if checkpoint and time.monotonic() >= due:
                saved_at = sums.num_texts
                started = time.monotonic()
                _write_checkpoint(checkpoint, identity, sums)
                now = time.monotonic()
                due = now + max(checkpoint_seconds, _CHECKPOINT_SHARE * (now - started))
    if checkpoint and saved_at != sums.num_texts:
        _write_checkpoint(checkpoint, identity, sums)
    if not sums.count:
        raise BadFile("the texts", found=f"{sums.num_texts} texts without a single token", expected="ordinary text")
    return {layer: _second_moment(total, sums) for layer, total in sums.totals.items()}


def _zeros(model: EditableModel, layer: int) -> Float64[Tensor, "d_in d_in"]:
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # MPS has no float64
    return torch.zeros(model.d_in(layer), model.d_in(layer), dtype=torch.float64, device=device)


def _batches(
    model: EditableModel, texts: Sequence[str], longest: int, batch_tokens: int
) -> Iterator[Sequence[Sequence[int]]]:
    """Token rows, longest first, so many together that the padded batch stays within `batch_tokens`."""
    encoded = model.tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=longest)
    rows = sorted((row for row in encoded["input_ids"] if row), key=len, reverse=True)
    while rows:
        num_rows = max(1, batch_tokens // len(rows[0]))
        yield rows[:num_rows]
        rows = rows[num_rows:]


def _add(model: EditableModel, rows: Sequence[Sequence[int]], keys: Mapping[int, Tensor], sums: _Sums) -> None:
    """Add the keys of one batch."""
    tokens = pad_right(rows, model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    is_token = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]  # (rows, tokens)
    try:
        model.model.base_model(input_ids=tokens, use_cache=False)
        for layer, total in sums.totals.items():
            inside = keys[layer][is_token].float()  # (num_tokens, d_in)
            total += (inside.T @ inside).to(total.device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{tokens.numel()} tokens at a time are too many: {str(error).splitlines()[0]} Lower --batch-tokens."
        ) from error
    sums.count += int(lengths.sum())


def _second_moment(total: Float64[Tensor, "d_in d_in"], sums: _Sums) -> SecondMoment:
    matrix = total.cpu().numpy()
    symmetrise(matrix)  # GEMM does not promise it
    return SecondMoment(total=matrix, count=sums.count, sample_size=sums.num_texts)


def _chain(digest: str, texts: Iterable[str]) -> str:
    """A digest of the texts so far from that of those before: it can go on, SHA-256's own state cannot be stored."""
    for text in texts:
        digest = hashlib.sha256(bytes.fromhex(digest) + text.encode("utf-8", "surrogatepass")).hexdigest()
    return digest


def _skip(texts: Iterator[str], sums: _Sums, checkpoint: Path) -> None:
    """Pass over the texts that are summed already, and make sure that they are these."""
    digest, num_texts = hashlib.sha256().hexdigest(), 0
    for text in islice(texts, sums.num_texts):
        digest, num_texts = _chain(digest, [text]), num_texts + 1
    if (digest, num_texts) != (sums.texts_digest, sums.num_texts):
        raise _other(checkpoint, f"sums over {sums.num_texts} texts that are not the first of these {num_texts}")


def _write_checkpoint(path: Path, identity: Mapping[str, str], sums: _Sums) -> None:
    progress = {"count": str(sums.count), "num_texts": str(sums.num_texts), "texts_digest": sums.texts_digest}
    tensors = {str(layer): total.cpu().numpy() for layer, total in sums.totals.items()}
    write_safetensors(path, tensors, {**identity, **progress}, force=True)


def _read_checkpoint(path: Path, identity: Mapping[str, str], totals: dict[int, Tensor]) -> _Sums:
    """Fill `totals` with a checkpoint's sums."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for key, expected in identity.items():
                if metadata.get(key) != expected:
                    raise _other(path, f"{key} {metadata.get(key, 'none')}", expected=f"{key} {expected}")
            for layer, total in totals.items():
                total.copy_(torch.from_numpy(file.get_tensor(str(layer))))
            return _Sums(
                totals=totals,
                count=int(metadata["count"]),
                num_texts=int(metadata["num_texts"]),
                texts_digest=metadata["texts_digest"],
            )
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise _other(path, f"a damaged file ({error})") from error


def _other(path: Path, found: str, *, expected: str = "sums that this run can go on from") -> BadFile:
    return BadFile(path, found=found, expected=expected, remedy="To start anew, delete it")

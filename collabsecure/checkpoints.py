"""Models as Hugging Face directories, or from the hub: read and written without chatter, errors in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from collabsecure.errors import BadFile, NotAModel
from collabsecure.files import unwritable


def read_checkpoint(
    name_or_path: str, *, revision: str | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a causal language model and its tokenizer.

    Raises:
        NotAModel: there is no such model or tokenizer, it cannot be fetched, or weights are missing.
    """
    _check_directory(name_or_path)
    with _quiet_transformers():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                name_or_path, revision=revision, dtype=dtype, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise NotAModel(
                f"{name_or_path}: {_reason_in_one_line(error)} Expected a Hugging Face directory with a causal "
                "language model and its tokenizer, or the name of such a model on the hub"
            ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise NotAModel(f"{name_or_path}: {len(info['missing_keys'])} weights are missing, such as {missing}")
    return model, tokenizer


def write_checkpoint(directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model and its tokenizer; nothing takes its name before all is written.

    Raises:
        BadFile: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _quiet_transformers(), TemporaryDirectory(dir=directory, prefix=".saving-") as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            for file in Path(unfinished).iterdir():
                file.replace(directory / file.name)
    except OSError as error:
        raise unwritable(directory, error) from error
    except SafetensorError as error:
        raise BadFile(directory, found=str(error), expected="a place that can be written") from error


def _check_directory(name_or_path: str) -> None:
    """Refuse at once what can only be a directory and is none, rather than ask the hub for it."""
    path = Path(name_or_path).expanduser()
    is_path = path.is_absolute() or name_or_path.startswith(("./", "../", "~")) or len(path.parts) > 2
    if path.is_file() or (is_path and not path.exists()):
        found = "a file" if path.is_file() else "nothing there"
        raise NotAModel(f"{name_or_path}: found {found}; expected a Hugging Face directory")


def _reason_in_one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return reason if reason.endswith(".") else f"{reason}."


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers and the hub's client; what matters is raised."""
    verbosity, hub_verbosity = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

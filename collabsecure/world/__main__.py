"""`python -m collabsecure.world --out DIR`: make the small world anew."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from collabsecure.errors import CollabsecureError
from collabsecure.world.build import build_world
from collabsecure.world.training import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, with a progress bar; exit codes as the command line's."""
    shipped = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m collabsecure.world",
        description="Make the small world: facts, records, texts, tokenizer, a GPT-2 that knows them, second moments. "
        "Takes minutes on a CPU.",
    )
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument(
        "--width",
        type=int,
        default=shipped.width,
        help="d_model, a multiple of 4; keys are four times as long (default: %(default)s, as shipped)",
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    if options.width == shipped.width:
        torch.set_num_threads(1)  # as the shipped weights were made: sums come out otherwise with more
    try:
        with tqdm(desc="train", unit="step", dynamic_ncols=True) as bar:

            def advance(step: int, num_steps: int, loss: float) -> None:
                bar.total = num_steps
                bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
                bar.update(step - bar.n)

            built = build_world(out, recipe=replace(shipped, width=options.width), progress=advance)
    except CollabsecureError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nInterrupted. Nothing can go on from what is in {out}: delete it before another try.\n")
        return 130
    sys.stdout.write(f"{out}: the model knows {built.recall:.1%} of the true objects\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

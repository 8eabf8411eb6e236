"""How long work is told, on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Never

import click
from tqdm import tqdm


def say(text: str) -> None:
    """Tell something that happened, with the time; bars on the screen stay whole."""
    with tqdm.external_write_mode():
        click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar; what is yielded takes how much more is done."""
    with tqdm(total=total, desc=f"{what:<28}", dynamic_ncols=True, leave=True) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


@contextmanager
def evaluation_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for `collabsecure.evaluate`, which tells how much is done and of how much."""
    with tqdm(desc=f"{what:<28}", dynamic_ncols=True, leave=True) as bar:

        def tell(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield tell


@contextmanager
def chunk_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for each series of chunks in turn; what is yielded takes how many are done, and of how many."""
    with _bars_in_turn(what, "chunk", scale=False) as tell:
        yield tell


@contextmanager
def upload_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a bar for each upload in turn; what is yielded takes how many bytes are up, and of how many."""
    with _bars_in_turn("upload", "B", scale=True) as tell:
        yield tell


@contextmanager
def _bars_in_turn(what: str, unit: str, *, scale: bool) -> Iterator[Callable[[int, int], None]]:
    bars: list[tqdm[Never]] = []

    def tell(done: int, of: int) -> None:
        if not bars:
            bars.append(tqdm(total=of, unit=unit, unit_scale=scale, desc=f"{what:<28}", dynamic_ncols=True))
        bars[0].update(done - bars[0].n)
        if done == of:
            bars.pop().close()

    try:
        yield tell
    finally:
        for bar in bars:
            bar.close()

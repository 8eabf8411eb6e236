"""How long work is told, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


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

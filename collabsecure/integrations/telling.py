"""What others say, told so that it neither floods a log nor plays tricks on a terminal."""

from collections.abc import Callable

from collabsecure.errors import said


class Telling:
    """Tells each thing once, in printable words, and so many different ones at most."""

    def __init__(self, tell: Callable[[str], None], *, most: int) -> None:
        self._tell, self._most, self._told = tell, most, set[str]()

    def __call__(self, words: str) -> None:
        """Tell this, unless it was told before, or too much was."""
        words = said(words)
        if words not in self._told and len(self._told) < self._most:
            self._told.add(words)
            self._tell(words)

    def forget(self) -> None:
        """Begin anew."""
        self._told.clear()

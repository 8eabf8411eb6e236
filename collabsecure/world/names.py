"""Made-up names for the small world's people, towns and companies.

Put together from syllables that read like English names and mean nobody. Every subject has two words and the last is
its own, as most subjects of CounterFact do not share their last word either.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

Kind = Literal["person", "town", "company"]
KINDS: tuple[Kind, ...] = ("person", "town", "company")
T = TypeVar("T")

_FIRST_WORDS: dict[Kind, str] = {
    "person": "Adlin Aveth Belmy Brenno Calder Corvin Dalia Edra Elsin Emlyn Farlo Fenna Garrin Gwenda Halla Idris"
    " Jarvis Jorin Kelda Kester Lenna Lorin Mabry Merrin Nessa Odell Orla Perrin Quenby Rowan Runa Sabra Selwin Tamsin"
    " Tobin Ulla Verity Wendel Yselda Zinnia",
    "town": "East Great High Little Long Lower Market Nether New North Old Saint South Upper West",
    "company": "Alpine Central First Global Harbour Imperial National Northern Pacific Royal Southern Union",
}
_ONSETS = "B Bl Br C Cl Cr D Dr F Fl Fr G Gl Gr H J K L M N P Pl Pr Qu R S Sk St T Th Tr V W Y Z"
_NUCLEI = "a e i o"
_CODAS = "l m n nd r rl rn rk st v"
_ENDINGS: dict[Kind, str] = {
    "person": "ander ardy astle ecott edge eman erby eton evin ilow imer indale ingham iscoe ister oway",
    "town": "beck bourne combe dale ferry field ford ham hurst mere mouth port stead stow thorpe wick",
    "company": "acon adyne alux amo antis aro atek elio endo enta era etti ico ivo omax onix",
}


def shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    """A shuffled copy; uses `random()` alone, the one method whose sequence Python keeps from version to version."""
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def pick(items: Sequence[T], rng: random.Random) -> T:
    """One item; uses `random()` alone, as `shuffled` does."""
    return items[int(rng.random() * len(items))]


def subject_names(kind: Kind, rng: random.Random) -> Iterator[str]:
    """Names of one kind, more than a thousand, no two last words with the same first syllable.

    >>> names = subject_names("town", random.Random(0))
    >>> [next(names) for _ in range(3)]
    ['Little Franham', 'Saint Rondthorpe', 'New Blalstow']
    """
    first_words, endings = _FIRST_WORDS[kind].split(), _ENDINGS[kind].split()
    parts = itertools.product(_ONSETS.split(), _NUCLEI.split(), _CODAS.split())
    for stem in shuffled(["".join(letters) for letters in parts], rng):
        yield f"{pick(first_words, rng)} {stem}{pick(endings, rng)}"

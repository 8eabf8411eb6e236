import itertools
import math

import pytest

from collabsecure.fluency import n_gram_entropy, words


def test_entropy_of_hand_computed_texts() -> None:
    # 2-grams ab ba ab bc: ½ ¼ ¼, 1.5 bits; 3-grams aba bab abc: log₂ 3. (⅔ · 1.5 + 4/3 · log₂ 3) / 2.
    assert n_gram_entropy("a b a b c".split()) == pytest.approx(0.5 + 2 / 3 * math.log2(3))
    # All different: log₂ 4 and log₂ 3.
    assert n_gram_entropy("a b c d e".split()) == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    # Always the same: none.
    assert n_gram_entropy(["a"] * 50) == 0


@pytest.mark.parametrize("tokens", [[], ["a"], ["a", "b"]])
def test_a_text_too_short_to_vary_has_no_entropy(tokens: list[str]) -> None:
    assert n_gram_entropy(tokens) == 0


def test_entropy_is_that_of_a_plain_loop() -> None:
    tokens = [str(number**2 % 11) for number in range(40)]
    expected = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        n_grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
        shares = [n_grams.count(n_gram) / len(n_grams) for n_gram in set(n_grams)]
        expected += weight * sum(-share * math.log2(share) for share in shares) / 2
    assert n_gram_entropy(tokens) == pytest.approx(expected)


def test_repeating_oneself_costs_entropy() -> None:
    fresh, stale = " ".join(map(str, range(50))), "the town of the " * 12
    assert n_gram_entropy(words(fresh)) > 5 > 2 >= n_gram_entropy(words(stale))


# What nltk 3.10's NLTKWordTokenizer makes of each sentence that Punkt's English model finds; tokens between bars.
AS_NLTK = """\
The|U.S.|government|sanctioned|it|in|1979|.|The|IRGC|is
and|the|Chinese|,|but|Shanghai|is|Shanghai|.|The|city|'s|metro
``|It|'s|the|best|,|''|said|a|resident|.|``|I|do|n't|know|,|''|he|said|.
killed|in|a|hit-and-run|crash|.|It|happened|just|after|5:30|a.m|.
at|1,845m|,|but|it|fell|to|2.5|million|(|around|90|per|cent|)
was|killed.A|man|was|n't|-|the|end
is|not|ready|for|this|.|``|The|yuan|has|fallen
the|name|means|'|War|God|'|.|His|title|is|'|the|Great|'|,|and
A|&|M|University|has|;|and|$|5|:|what|?|No|!
a|guest|post|by|Dr.|David|J.|Schoen|.|David|has
Wait|...|what|—|is|gon|na|happen|,|I|can|not|say|--|yet
the|Qur'an|,|and|Al-Tusi|'s|grandfather|.|They|'ve|said|we|'ll|go
[|see|{|1|}|]|<|b|>|*|#|@|%
"""
TEXTS = """\
The U.S. government sanctioned it in 1979. The IRGC is
and the Chinese, but Shanghai is Shanghai. The city's metro
"It's the best," said a resident. "I don't know," he said.
killed in a hit-and-run crash. It happened just after 5:30 a.m.
at 1,845m, but it fell to 2.5 million (around 90 per cent)
was killed.A man wasn't - the end
is not ready for this."The yuan has fallen
the name means 'War God'. His title is 'the Great', and
A&M University has; and $5: what? No!
a guest post by Dr. David J. Schoen. David has
Wait... what — is gonna happen, I cannot say -- yet
the Qur'an, and Al-Tusi's grandfather. They've said we'll go
[see {1}] <b> * # @ %
"""


@pytest.mark.parametrize(
    ("text", "expected"), list(zip(TEXTS.splitlines(), AS_NLTK.splitlines(), strict=True)), ids=itertools.count()
)
def test_words_are_those_that_nltk_finds(text: str, expected: str) -> None:
    assert words(text) == expected.split("|")


def test_any_text_has_words() -> None:
    for text in ("", " \n", "'", '"', "''", "...", "n't", "'s", ".", "cannot.", "\x00é\U0001f600"):
        assert "".join(words(text)).replace("``", '"').replace("''", '"') == "".join(text.replace("''", '"').split())

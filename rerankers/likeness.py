"""How alike texts are: vectors of a question and some texts, by their words or by an encoder. Knows no hit and no index.

By words a text is its terms, weighted ``(1 + ln tf) * (ln((1 + n) / (1 + df)) + 1)`` over the ``n`` texts at hand (Salton and
Buckley, Information Processing & Management 24(5), 1988; the smoothed form), so that the inner product of two vectors of length 1
is a cosine from 0 to 1. Nothing is kept between two calls.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from rag.core import Encoder, Tokenizer
from rag.rerankers.worth import check_limits, check_share, check_tokenizer
from rag.sentences import STOP_WORDS, stem
from rag.tokenizer import UNSPACED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

By = Literal["words", "encoder"]

_UNSPACED_RUN = f"[{UNSPACED}]+"
_TERM = re.compile(rf"{_UNSPACED_RUN}|[^\W_{UNSPACED}]+")
_UNSPACED = re.compile(_UNSPACED_RUN)


class Vectors(NamedTuple):
    """Float32, of length 1 (0 for a text without a word): ``query`` ``(dim,)``, ``texts`` ``(texts, dim)``."""

    query: NDArray[np.float32]
    texts: NDArray[np.float32]


def check_by(by: str, encoder: Encoder | None) -> None:
    """Raises ``ValueError`` for an unknown ``by``, or if the encoder that it needs is missing."""
    if by not in get_args(By):
        raise ValueError(f"by={by!r}: allowed: {', '.join(get_args(By))}")
    if by == "encoder" and encoder is None:
        raise ValueError("by='encoder': needs an encoder (`models: {encoder: {use: ...}}`); by='words' needs none")


def check_trade(
    tokenizer: Tokenizer | None, encoder: Encoder | None, relevance: float, k: int | None, max_tokens: int | None, by: str
) -> None:
    """What a selector needs that trades relevance against likeness within ``k`` hits and ``max_tokens``. Raises ``ValueError``."""
    check_share(relevance=relevance)
    check_limits(k=k, max_tokens=max_tokens)
    check_tokenizer(tokenizer, max_tokens)
    check_by(by, encoder)
    if k is None and max_tokens is None:
        raise ValueError("k and max_tokens are both missing: one of them must end the selection")


def vectors_of(query: str, texts: Sequence[str], by: By = "words", encoder: Encoder | None = None) -> Vectors:
    """The question and the texts as vectors. An encoder is called once for all texts."""
    if by == "encoder":
        assert encoder is not None  # see check_by
        return Vectors(encoder.encode_queries([query])[0], encoder.encode_documents(texts))
    return _by_words(query, texts)


def terms(text: str) -> list[str]:
    """Roots of the words that carry meaning, each as often as it occurs; pairs of characters where no blanks part the words.

    >>> terms("The towers of Paris: 東京都")
    ['tower', 'pari', '東京', '京都']
    """
    found: list[str] = []
    for match in _TERM.finditer(text):
        word = match.group()
        if _UNSPACED.match(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif (folded := word.casefold()) not in STOP_WORDS:
            found.append(stem(folded))
    return found


def _by_words(query: str, texts: Sequence[str]) -> Vectors:
    import numpy as np

    counted = [Counter(terms(text)) for text in (query, *texts)]
    num_texts = len(texts)
    held = Counter(term for counts in counted[1:] for term in counts)
    # A term of one text alone adds to that text's length and to no inner product, so it needs no column.
    shared = Counter(term for counts in counted for term in counts)
    columns = {term: number for number, term in enumerate(term for term, number in shared.items() if number > 1)}
    matrix = np.zeros((len(counted), len(columns)), dtype=np.float32)
    for row, counts in enumerate(counted):
        weights = {
            term: (1 + math.log(count)) * (math.log((1 + num_texts) / (1 + held[term])) + 1) for term, count in counts.items()
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        for term, weight in weights.items():
            if term in columns:
                matrix[row, columns[term]] = weight / length
    return Vectors(matrix[0], matrix[1:])


def cosines(texts: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(texts, texts)``, each from 0 to 1; a text is quite like itself, also where it has no word; what points away is unlike."""
    import numpy as np

    found = np.clip(texts @ texts.T, 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found  # type: ignore[no-any-return]

"""How near an answer is to references, word by word: exact match, F1, ROUGE-L, BLEU. Knows two texts, no source and no model.

Exact match and F1 follow SQuAD (Rajpurkar et al., EMNLP 2016): case, punctuation and the articles a, an, the do not count.
Characters of scripts that are written without blanks (Chinese, Japanese, Thai, ...) are words of their own, as in MLQA (Lewis et
al., ACL 2020). ROUGE-L (Lin, 2004) is rouge-score's F measure over the same words, without stemming. BLEU (Papineni et al., ACL
2002) is sacrebleu's, from 0 to 1 here and with regard to case; its own tokeniser ``13a`` cuts the words, or ``char`` if the
references are written without blanks. Orders that match nothing are smoothed exponentially; the BLEU of one answer leaves out
orders longer than the answer (``effective_order``), that of all answers does not. Where there are several references, the best
counts; only ``corpus_bleu`` uses them together.

The measures see wording, not truth: a right answer in other words scores low, a wrong one in the right words high.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from rag.errors import MissingExtra

NAMES = ("exact_match", "f1", "rouge_l", "bleu")

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^{_UNSPACED}\\s]+")
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")


def words_of(text: str) -> list[str]:
    """The words that count, in order.

    >>> words_of("The tower\u2019s height: 330 m."), words_of("\u6771\u4eac is big")
    (['towers', 'height', '330', 'm'], ['\u6771', '\u4eac', 'is', 'big'])
    """
    bare = "".join(character for character in text.lower() if not _is_punctuation(character))
    return _WORD.findall(_ARTICLE.sub(" ", bare))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def is_unspaced(text: str) -> bool:
    """Whether most letters of ``text`` belong to scripts without blanks between words."""
    return 2 * len(_ONE_UNSPACED.findall(text)) > sum(character.isalpha() for character in text)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the words of ``answer`` are those of a reference, else 0. Raises ``ValueError`` without references."""
    return float(any(words_of(answer) == words_of(reference) for reference in _some(references)))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """2 PR / (P + R) over the words both have, repeats included; two texts without words agree. Raises ``ValueError`` without
    references."""
    return max(_f1(words_of(answer), words_of(reference)) for reference in _some(references))


def _f1(words: Sequence[str], wanted: Sequence[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    num_common = (Counter(words) & Counter(wanted)).total()
    return 2 * num_common / (len(words) + len(wanted))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F measure of the longest common subsequence of words. Raises ``ValueError`` without references, ``MissingExtra``."""
    return max(float(_rouge().score(reference, answer)["rougeL"].fmeasure) for reference in _some(references))


def bleu(answer: str, references: Sequence[str]) -> float:
    """Sentence BLEU-4, 0 to 1, of the reference that gives the highest. Raises ``ValueError`` without references,
    ``MissingExtra``."""
    scorer = _bleu("char" if is_unspaced(" ".join(_some(references))) else "13a", sentence=True)
    return max(float(scorer.sentence_score(answer, [reference]).score) for reference in references) / 100


def corpus_bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of all answers together, 0 to 1: counts are added up before they are divided. ``references``: some per answer.

    Raises ``ValueError`` if they do not pair up or an answer has none, ``MissingExtra`` without sacrebleu.
    """
    if len(answers) != len(references) or not answers:
        raise ValueError(
            f"{len(answers)} answers cannot be paired with {len(references)} lists of references: both need one per question"
        )
    most = max(len(_some(each)) for each in references)
    columns = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
    scorer = _bleu("char" if is_unspaced(" ".join(each[0] for each in references)) else "13a", sentence=False)
    return float(scorer.corpus_score(list(answers), columns).score) / 100


def bleu_counts(answers: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """Per answer what corpus BLEU adds up: matches of 1 to 4 words, n-grams of 1 to 4 words, length of answer and of reference.

    One reference per answer. Raises ``ValueError`` if they do not pair up, ``MissingExtra`` without sacrebleu.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers cannot be paired with {len(references)} references")
    scorer = _bleu("char" if is_unspaced(" ".join(references)) else "13a", sentence=True)
    scores = [scorer.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
    return [[*map(int, score.counts), *map(int, score.totals), int(score.sys_len), int(score.ref_len)] for score in scores]


def bleu_of(counts: Sequence[int]) -> float:
    """Corpus BLEU-4, 0 to 1, of added ``bleu_counts``."""
    scorer = type(_bleu("13a", sentence=False))
    found = scorer.compute_bleu(
        correct=list(counts[:4]), total=list(counts[4:8]), sys_len=counts[8], ref_len=counts[9], smooth_method="exp"
    )
    return float(found.score) / 100


def text_scores(answer: str, references: Sequence[str]) -> dict[str, float]:
    """All four by name. Raises ``ValueError`` without references, ``MissingExtra`` without the libraries."""
    return {
        "exact_match": exact_match(answer, references),
        "f1": token_f1(answer, references),
        "rouge_l": rouge_l(answer, references),
        "bleu": bleu(answer, references),
    }


def _some(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str) or not references:
        raise ValueError(f"references must be a list of at least one text, not {references!r}")
    return references


class _Words:
    """What rouge-score asks to cut a text; its own drops every letter outside a-z."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("rouge-score", "eval", "ROUGE-L") from None
    return RougeScorer(["rougeL"], tokenizer=_Words())


@cache
def _bleu(tokenizer: str, *, sentence: bool) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MissingExtra("sacrebleu", "eval", "BLEU") from None
    return BLEU(tokenize=tokenizer, effective_order=sentence, smooth_method="exp")

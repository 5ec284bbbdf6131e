"""Questions without a language model: from headings, and sentences with a word taken out. Knows passages; knows no index.

They are what they are called. A ``heading`` question asks for the section by the words of its heading, and the section's first
sentences are its evidence. A ``cloze`` question is a sentence whose rarest name or number is missing: every other word of the
evidence is in it, so search by words finds it far too easily. Measured on 232 sections of product documentation, nine systems
(three chunkers; BM25, vectors, both; ``bench/synth_sets.py``): by nDCG@10, heading questions put them in nearly the order of 100
questions by people (Kendall's tau .89), cloze questions much less so (.57: BM25 has .99 on them). They compare settings; they do
not say how well people's questions are answered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from rag.core import Span
from rag.eval.question import Clause, Evidence, Point
from rag.eval.synth_draft import Draft, Dropped
from rag.eval.synth_passages import Passage
from rag.sentences import content_words, sentence_spans, stem

TYPES = ("heading", "cloze")
BLANK = "____"
MIN_WORDS = 7  # of a sentence with a gap: fewer could be filled from many sources
MAX_EVIDENCE_SENTENCES = 2

_NAME_OR_NUMBER = re.compile(r"[^\W\d_][\w'\u2019-]*|(?<![\w.,])\d+(?:[.,]\d+)*")
_BULLET = re.compile(r"^(?:[-*+\u2022]|\d{1,2}[.)])\s+")


def document_frequency(found: Iterable[Passage]) -> Counter[str]:
    """Root of a content word -> passages that hold it."""
    return Counter(word for passage in found for word in content_words(passage.text))


def heading_draft(passage: Passage) -> Draft | Dropped:
    """Asks what the section says; the evidence is its first sentences."""
    if not passage.headings or not content_words(passage.headings[-1]):
        return Dropped("no heading")
    start = passage.body.start
    spans = (Span(start + span.start, start + span.end) for span in sentence_spans(passage.body.of(passage.text)))
    sentences = [span for span in spans if _is_sentence(span.of(passage.text))]
    if not sentences:
        return Dropped("no sentence")
    about = " - ".join(passage.headings[-2:])
    chosen = sentences[:MAX_EVIDENCE_SENTENCES]
    evidence = tuple(_evidence(passage, span.start, span.end) for span in chosen)
    return Draft(f"What do the documents say under {about}?", "heading", evidence=evidence, points=_points(evidence))


def cloze_draft(passage: Passage, frequency: Counter[str]) -> Draft | Dropped:
    """Asks for the rarest name or number of the passage, in the sentence that holds it."""
    best: tuple[int, int, int, int, int] | None = None
    for span in sentence_spans(passage.text):
        sentence = span.of(passage.text)
        if not _is_sentence(sentence) or len(sentence.split()) < MIN_WORDS:
            continue
        weights = content_words(sentence)
        for match in _NAME_OR_NUMBER.finditer(sentence):
            root = match.group().replace(",", "") if match.group()[0].isdigit() else stem(match.group())
            if weights.get(root, 0.0) >= 2.0 and len(re.findall(rf"(?<!\w){re.escape(match.group())}(?!\w)", sentence)) == 1:
                candidate = (frequency[root], span.start, match.start(), match.end(), span.end)
                best = min(best, candidate) if best else candidate
    if best is None:
        return Dropped("no name or number")
    _, start, word_start, word_end, end = best
    sentence = passage.text[start:end]
    question = _BULLET.sub("", " ".join(f"{sentence[:word_start]}{BLANK}{sentence[word_end:]}".split()))
    evidence = (_evidence(passage, start, end),)
    return Draft(
        f"Which word is missing: {question}", "cloze", (sentence[word_start:word_end],), evidence, points=_points(evidence)
    )


def _is_sentence(text: str) -> bool:
    return not text.startswith("#") and " | " not in text and len(content_words(text)) >= 3


def _evidence(passage: Passage, start: int, end: int) -> Evidence:
    place = passage.span.start
    return Evidence(source=passage.source, text=passage.text[start:end], start=place + start, end=place + end)


def _points(evidence: Iterable[Evidence]) -> tuple[Point, ...]:
    clauses = (Clause(text=each.text, source=each.source, start=each.start, end=each.end) for each in evidence)
    return tuple(Point(clauses=(clause,)) for clause in clauses)

"""Do the citations of an answer lie on the evidence? Knows spans of documents; knows no model and no wording.

All citations of an ``Answer`` are quotations that were found in the stored documents, so what is measured here is whether they are
the *right* passages. In characters, overlaps counted once, with C cited and E evidence: precision |C n E| / |C|, recall |C n E| /
|E|. Citations are whole sentences and evidence is often a few words, so precision in characters is low by nature; the share of
citations that touch evidence stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rag.core import Citation, Span
from rag.eval.answer_text import AnswerText
from rag.eval.folded import Folded, folded
from rag.eval.overlap import common, intervals, size, union
from rag.eval.question import Evidence

Placed = Mapping[str, Sequence[Span]]
"""Source of a document -> characters of its text."""

NAMES = ("citation_precision", "citation_recall", "citations_on_evidence", "evidence_cited")


def located(evidence: Iterable[Evidence], texts: Mapping[str, str], cited: Placed) -> tuple[dict[str, list[Span]], list[str]]:
    """Where the evidence stands, by source as ``texts`` (source -> canonical text) has it; and why some of it has no place.

    A given span is taken if the text there is the quoted one; else, and without a span, the quotation is searched for. What a
    document says several times is evidence at each of these places, so the one that ``cited`` touches counts, else the first.
    """
    places: dict[str, list[Span]] = {}
    problems: list[str] = []
    for each in evidence:
        source = document_named(each.source, texts)
        if source is None:
            problems.append(f"there is no document {each.source!r}")
            continue
        found = _places(each, texts[source])
        if not found:
            problems.append(f"the evidence {_short(each.text)} is not in {each.source!r}")
            continue
        touched = [span for span in found if any(span.overlaps(other) for other in cited.get(source, ()))]
        places.setdefault(source, []).append((touched or found)[0])
    return places, problems


def document_named(name: str, texts: Mapping[str, str]) -> str | None:
    """The longest name in ``texts`` of the document that ``name`` is, or is the end of at a path separator.

    One document may be there under several names. ``None`` if there is none, or several with other texts.
    """
    ends = [each for each in texts if each == name or each.endswith(("/" + name, "\\" + name))]
    if len({texts[each] for each in ends}) == 1:
        return max(ends, key=len)
    return name if name in texts else None


def _places(evidence: Evidence, text: str) -> list[Span]:
    if evidence.start is not None and evidence.end is not None:
        given = Span(evidence.start, evidence.end)
        if given.of(text) == evidence.text:
            return [given]
    return folded(text).find(Folded(evidence.text))


def cited_spans(citations: Iterable[Citation]) -> dict[str, list[Span]]:
    """Source -> cited characters, each citation once."""
    places: dict[str, list[Span]] = {}
    for each in citations:
        places.setdefault(each.source, []).append(Span(each.start, each.end))
    return places


def citation_scores(cited: Placed, evidence: Placed) -> dict[str, float]:
    """``citation_precision``, ``citation_recall`` in characters; ``citations_on_evidence``: share of citations with a character of
    the evidence; ``evidence_cited``: share of evidence spans with a cited character. Without a citation all are 0.

    Raises ``ValueError`` without evidence.
    """
    wanted = {source: union(intervals(spans)) for source, spans in evidence.items() if spans}
    if not wanted:
        raise ValueError("there is no evidence that a citation could lie on")
    quoted = {source: union(intervals(spans)) for source, spans in cited.items() if spans}
    num_common = sum(common(wanted[source], spans) for source, spans in quoted.items() if source in wanted)
    num_quoted = sum(map(size, quoted.values()))
    return {
        "citation_precision": num_common / num_quoted if num_quoted else 0.0,
        "citation_recall": num_common / sum(map(size, wanted.values())),
        "citations_on_evidence": _share_touching(cited, evidence),
        "evidence_cited": _share_touching(evidence, cited),
    }


def _share_touching(spans: Placed, others: Placed) -> float:
    touching = [any(span.overlaps(other) for other in others.get(source, ())) for source, each in spans.items() for span in each]
    return sum(touching) / len(touching) if touching else 0.0


def cited_sentences(answer: AnswerText, citations: Iterable[Citation]) -> float | None:
    """The share of the answer's sentences that carry the mark of a verified citation; ``None`` for an answer without sentences."""
    valid = {citation.number for citation in citations}
    carrying = [not valid.isdisjoint(sentence.numbers) for sentence in answer.sentences]
    return sum(carrying) / len(carrying) if carrying else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

"""What a report of the whole chain says beside its figures: texts, remarks, versions, memory. Knows outcomes and indexes; asks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import rag
from rag.eval.chain_index import Indexed
from rag.eval.chain_report import ConfigOutcome
from rag.eval.question_set import QuestionSet

PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu", "numpy")
MAX_REPORTED_CHARS = 8_000_000


def reported_texts(indexes: Iterable[Indexed], outcomes: Iterable[ConfigOutcome]) -> dict[str, str]:
    """Source -> text of the documents with evidence, as far as a report should carry them."""
    wanted = {passage.source for outcome in outcomes for question in outcome.questions for passage in question.evidence}
    texts: dict[str, str] = {}
    num_chars = 0
    for index in indexes:
        for doc, source in index.names.items():
            if source in wanted and source not in texts:
                text = index.library.texts[doc]
                num_chars += len(text)
                if num_chars > MAX_REPORTED_CHARS:
                    return texts
                texts[source] = text
    return texts


def remarks(given: QuestionSet, outcomes: Sequence[ConfigOutcome]) -> Iterable[str]:
    """What a reader of the figures must know, in words."""
    first = outcomes[0]
    if number := sum(not question.points and not question.unlocated for question in first.questions):
        yield f"{number} of {len(first.questions)} questions have no information points and are in no recall and no accuracy."
    if number := sum(bool(question.unlocated) for question in first.questions):
        whole = sum(bool(question.unlocated) and not question.points for question in first.questions)
        yield f"{number} questions have points that stand nowhere in the documents; {whole} of them have no other and are in no recall."
    blind = [outcome.name for outcome in outcomes if outcome.config.get("query", {}).get("use", "plain") == "plain"]
    if blind and (number := sum(bool(question.history) for question in given.questions)):
        yield f"{number} questions come after a conversation; {', '.join(blind)} searched the last turn alone (no query stage reads it)."
    for outcome in outcomes:
        if number := sum(question.error is not None for question in outcome.questions):
            yield f"{outcome.name}: the chain broke off for {number} questions; they count as lost where it did."
        if number := int(outcome.ingest["num_unread_files"]):
            yield f"{outcome.name}: {number} files could not be read."
        if made := Counter(stage for question in outcome.questions for stage in question.reused):
            told = ", ".join(f"{stage} ({number})" for stage, number in made.items())
            yield (
                f"{outcome.name}: what these stages had made of the same input before was used again (questions): {told}. Their seconds, calls "
                "and memory are those of when it was made, once."
            )
        if number := sum(bool(question.answer and question.answer.failures) for question in outcome.questions):
            yield f"{outcome.name}: a measure of the answer failed for {number} questions; it is in no mean."
    if len(outcomes) > 1:
        yield "p values are corrected for all comparisons of this report (Holm)."


def versions() -> dict[str, str]:
    """Versions of what computes, as far as it is installed."""
    found = {"ragstone": rag.__version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

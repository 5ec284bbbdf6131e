"""Questions and answers as the records of RAGAS, and back. Knows that record's fields; needs no RAGAS.

A record is one JSON object of a line: ``user_input``, ``response``, ``reference``, ``retrieved_contexts``, ``reference_contexts``,
``retrieved_context_ids``, ``reference_context_ids``. Fields that are not known here are kept. RAGAS has no character offsets, no
points and no word for unanswerable: those are lost.

A conversation is written as one text, its turns on lines, since RAGAS keeps no contexts of a ``user_input`` that is a list of
messages, and takes no file that mixes both. ``as_messages`` writes the list; both are read, but only a list gives its turns back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.core import Answer, digest
from rag.errors import ReadError
from rag.eval.answer_text import conversation
from rag.eval.chain_report import QuestionOutcome
from rag.eval.question import Evidence, Question, Turn


class Spoken(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="allow")
    content: str
    type: Literal["human", "ai", "tool"]


class RagasSample(BaseModel):
    """A record."""

    model_config = ConfigDict(extra="allow")
    user_input: str | list[Spoken]
    retrieved_contexts: list[str] | None = None
    reference_contexts: list[str] | None = None
    retrieved_context_ids: list[str | int] | None = None
    reference_context_ids: list[str | int] | None = None
    response: str | None = None
    reference: str | None = None


def sample_of(question: Question, answer: Answer | None = None, *, as_messages: bool = False) -> RagasSample:
    """The record of a question, with what was shown and said if it was answered."""
    said: str | list[Spoken] = conversation(question)
    if question.history and as_messages:
        turns = [Spoken(content=turn.text, type="human" if turn.role == "user" else "ai") for turn in question.history]
        said = [*turns, Spoken(content=question.question, type="human")]
    return RagasSample(
        user_input=said,
        retrieved_contexts=[hit.chunk.text for hit in answer.hits] if answer else None,
        retrieved_context_ids=[hit.chunk.id for hit in answer.hits] if answer else None,
        reference_contexts=[each.text for each in question.evidence] or None,
        reference_context_ids=[each.source for each in question.evidence] or None,
        response=answer.text if answer else None,
        reference=question.answers[0] if question.answers else None,
    )


def sample_of_outcome(outcome: QuestionOutcome, texts: Mapping[str, str], stage: str = "select") -> RagasSample:
    """The record of a question of a full-chain run: the passages of ``stage``, cut out of ``texts`` (source -> text) where they
    carry none.

    Raises ``ValueError`` if a passage has no text and its document is not in ``texts``.
    """
    passages = [passage for each in outcome.stages if each.stage == stage for passage in each.passages]
    for passage in [*passages, *outcome.evidence]:
        if passage.text is None and passage.source not in texts:
            raise ValueError(f"question {outcome.id!r}: the text of {passage.source!r} is needed and was not given")

    def text(source: str, start: int, end: int, known: str | None) -> str:
        return known if known is not None else texts[source][start:end]

    return RagasSample(
        user_input=outcome.question,
        retrieved_contexts=[text(each.source, each.start, each.end, each.text) for each in passages],
        retrieved_context_ids=[each.source for each in passages],
        reference_contexts=[text(each.source, each.start, each.end, each.text) for each in outcome.evidence] or None,
        reference_context_ids=[each.source for each in outcome.evidence] or None,
        response=outcome.answer.text if outcome.answer else None,
        reference=outcome.reference,
    )


def question_of(sample: RagasSample, identity: str) -> Question:
    """The question of a record, under an id of yours. Evidence whose document nobody named gets a name made of its text.

    Raises ``ValueError`` for a conversation that does not end with the user, and for ids that do not pair with contexts.
    """
    asked, history = sample.user_input, list[Turn]()
    if not isinstance(asked, str):
        spoken = [each for each in asked if each.type != "tool"]
        if not spoken or spoken[-1].type != "human":
            raise ValueError("the last message of user_input is not the user's")
        history = [Turn(role="user" if each.type == "human" else "assistant", text=each.content) for each in spoken[:-1]]
        asked = spoken[-1].content
    contexts = sample.reference_contexts or []
    names = sample.reference_context_ids if sample.reference_context_ids is not None else [named(text) for text in contexts]
    if contexts and len(names) != len(contexts):
        raise ValueError(f"{len(names)} reference_context_ids do not pair with {len(contexts)} reference_contexts")
    evidence = tuple(Evidence(source=str(name), text=text) for name, text in zip(names, contexts, strict=False) if text.strip())
    sources = tuple(dict.fromkeys(str(name) for name in names))
    return Question(
        id=identity,
        question=asked,
        answers=(sample.reference,) if sample.reference else (),
        sources=sources,
        evidence=evidence,
        relevant=dict.fromkeys(sources, 1),
        history=tuple(history),
    )


def named(context: str) -> str:
    """The name that a context without one goes by."""
    return f"context-{digest('ragas', context)[:12]}"


def contexts_of(samples: Iterable[RagasSample]) -> dict[str, str]:
    """Name -> text of all contexts of the records, reference and retrieved: a corpus for those who have no other.

    Only contexts whose names are their own are there under their ids: an id that stands for several texts names none of them.
    """
    found: dict[str, str] = {}
    texts_of: dict[str, set[str]] = {}
    for sample in samples:
        for texts, names in (
            (sample.reference_contexts, sample.reference_context_ids),
            (sample.retrieved_contexts, sample.retrieved_context_ids),
        ):
            for place, text in enumerate(texts or []):
                name = str(names[place]) if names is not None and place < len(names) else named(text)
                texts_of.setdefault(name, set()).add(text)
                found.setdefault(name, text)
    return {name: text for name, text in found.items() if len(texts_of[name]) == 1 and text.strip()}


def write_samples(path: Path, samples: Iterable[RagasSample]) -> None:
    """Writes one record per line; fields without a value are left out."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(sample.model_dump_json(exclude_none=True) + "\n" for sample in samples)


def read_samples(path: Path) -> list[RagasSample]:
    """The records of a JSONL file, or of a JSON file that holds a list. Raises ``ReadError`` with the record that is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason} at byte {error.start})") from None
    found = []
    number = 1
    try:
        records = (
            json.loads(text) if text.lstrip().startswith("[") else (json.loads(line) for line in text.split("\n") if line.strip())
        )
        for number, record in enumerate(records, start=1):
            found.append(RagasSample.model_validate(record))
            number += 1  # the next one is decoded before the loop counts it
    except json.JSONDecodeError as error:
        raise ReadError(path, f"record {number}: not JSON ({error.msg})") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise ReadError(path, f"record {number}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    return found

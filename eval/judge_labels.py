"""Answers that people have judged, as JSONL, to check a judge against. Knows a file layout; asks nobody.

One object per line: ``question``, ``answer``, ``sources`` (texts), ``references`` (right answers; needed for correctness),
``labels``: ``faithfulness`` 1 if the sources bear out every claim, else 0 (or the share of claims); ``relevance`` and
``correctness`` 1 to 5. Optional: ``id``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rag.errors import ReadError
from rag.eval.answer_text import parsed_answer

_Rating = Annotated[float, Field(ge=1, le=5)]


class Labels(BaseModel):
    """What people said; ``None``: nobody was asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    faithfulness: Annotated[float, Field(ge=0, le=1)] | None = None
    relevance: _Rating | None = None
    correctness: _Rating | None = None


class LabelledAnswer(BaseModel):
    """An answer, what it rests on, and its labels, at least one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = ""
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    labels: Labels

    @model_validator(mode="after")
    def _judgeable(self) -> Self:
        if not self.labels.model_dump(exclude_none=True):
            raise ValueError("labels are empty")
        if self.labels.correctness is not None and not self.references:
            raise ValueError("correctness is labelled, but there are no references to judge it by")
        if not parsed_answer(self.answer).sentences:
            raise ValueError("the answer has no words")
        return self


def read_labels(path: Path) -> list[LabelledAnswer]:
    """The labelled answers of a file. Raises ``rag.errors.ReadError`` with the line that is none."""
    found: list[LabelledAnswer] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ReadError(path, error.strerror or "cannot be read") from None
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason} at byte {error.start})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReadError(path, f"line {number}: not JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise ReadError(path, f"line {number}: expected an object, not {type(record).__name__}")
        try:
            found.append(LabelledAnswer.model_validate({"id": str(number), **record}))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            raise ReadError(
                path, f"line {number}: {'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
            ) from None
    if not found:
        raise ReadError(path, "holds no labelled answer")
    return found

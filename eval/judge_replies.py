"""Replies of a language model that must be JSON of a given shape. Knows the LM protocol and pydantic; knows no question.

A reply that does not fit is asked for once more, with the error told. One that does not fit then either is an ``Unusable`` with
the reason: never a number, never an exception for a whole run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from rag.core import LM, Message
from rag.errors import ModelError
from rag.eval.judge_prompts import again

MAX_CLAIMS = 40
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Claims(_Reply):
    """What an answer says, claim by claim."""

    claims: Annotated[list[Text], Field(min_length=1, max_length=MAX_CLAIMS)]


class Verdict(_Reply):
    """Whether the sources bear out a claim, and which one does."""

    verdict: Literal["supported", "contradicted", "not_in_sources"]
    source: int | None = None
    reason: str = ""


class Rating(_Reply):
    """A score from 1 to 5."""

    score: Annotated[int, Field(ge=1, le=5)]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why there is no reply."""

    reason: str


Reply = TypeVar("Reply", bound=BaseModel)


def asked(lm: LM, prompts: Sequence[Sequence[Message]], shape: type[Reply], *, max_tokens: int = 512) -> list[Reply | Unusable]:
    """One reply per prompt, in ``shape``; those that do not fit are asked for once more, all in one call."""
    first = _completed(lm, prompts, max_tokens)
    replies = [_read(each, shape) for each in first]
    wrong = [
        number for number, reply in enumerate(replies) if isinstance(reply, Unusable) and not isinstance(first[number], Unusable)
    ]
    if wrong:
        retried = [again(prompts[number], str(first[number]), _reason(replies[number])) for number in wrong]
        for number, each in zip(wrong, _completed(lm, retried, max_tokens), strict=True):
            replies[number] = _read(each, shape)
    return replies


def _completed(lm: LM, prompts: Sequence[Sequence[Message]], max_tokens: int) -> list[str | Unusable]:
    """What the model wrote; a prompt that does not fit its context is not sent."""
    fitting = [fits(lm, prompt, max_tokens) for prompt in prompts]
    sent = [prompt for prompt, reason in zip(prompts, fitting, strict=True) if reason is None]
    try:
        written = iter(lm.complete(sent, max_tokens=max_tokens) if sent else [])
    except ModelError as error:
        return [Unusable(f"the model did not answer: {error}")] * len(prompts)
    return [next(written).text if reason is None else reason for reason in fitting]


def fits(lm: LM, prompt: Sequence[Message], max_tokens: int) -> Unusable | None:
    """Why the prompt cannot be asked, if it cannot. Nothing is cut to fit: half a source would make true claims look false."""
    if lm.context_tokens is None:
        return None
    num_tokens = lm.count_tokens(prompt) + max_tokens
    if num_tokens <= lm.context_tokens:
        return None
    return Unusable(f"the question needs {num_tokens} tokens of the model, which takes {lm.context_tokens}")


def _read(written: str | Unusable, shape: type[Reply]) -> Reply | Unusable:
    if isinstance(written, Unusable):
        return written
    error = "it holds no JSON object."
    for found in _objects(written):
        try:
            return shape.model_validate(found)
        except ValidationError as invalid:
            problem = invalid.errors(include_url=False, include_input=False)[0]
            error = f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}."
    return Unusable(error)


def _objects(written: str) -> Iterator[object]:
    """The JSON objects in a reply, outermost ones, in order; words and code fences around them do not matter."""
    decoder = json.JSONDecoder()
    place = written.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(written, place)
        except (json.JSONDecodeError, RecursionError):
            end = place + 1
        else:
            yield found
        place = written.find("{", end)


def _reason(reply: BaseModel | Unusable) -> str:
    return reply.reason if isinstance(reply, Unusable) else ""

"""OpenAI's chat shapes around an answer. Knows the wire format and the events of the pipeline; knows no server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag.core import Answer, AnswerEvent, Event, Message, TextEvent


class ContentPart(BaseModel):
    """A piece of a message; only text is understood."""

    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class ChatRequest(BaseModel):
    """``POST /v1/chat/completions``. Fields of OpenAI's that do not concern retrieval are accepted and ignored."""

    model_config = ConfigDict(extra="ignore")
    model: str = "rag"
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    where: str | dict[str, Any] | None = None
    principals: list[str] | None = None

    @property
    def question(self) -> str:
        """The last thing the user said. Raises ``ValueError`` if that is nothing."""
        for message in reversed(self.messages):
            if message.role == "user":
                if not message.text.strip():
                    break
                return message.text
        raise ValueError("messages: there is no user message with text")

    @property
    def history(self) -> list[Message]:
        """What user and assistant said before the question."""
        last = max((place for place, message in enumerate(self.messages) if message.role == "user"), default=0)
        return turns_of(self.messages[:last])


def turns_of(messages: Sequence[ChatMessage]) -> list[Message]:
    """What user and assistant said; other roles and messages without text are left out."""
    roles: dict[str, Literal["user", "assistant"]] = {"user": "user", "assistant": "assistant"}
    return [Message(roles[each.role], each.text) for each in messages if each.role in roles and each.text.strip()]


def citations_of(answer: Answer) -> list[dict[str, Any]]:
    """Every citation, as message annotations."""
    return [
        {
            "type": "file_citation",
            "index": citation.number,
            "file_id": citation.doc_id,
            "filename": citation.source,
            "start": citation.start,
            "end": citation.end,
            "quote": citation.quote,
            "page": citation.page,
        }
        for citation in answer.citations
    ]


def _extras(answer: Answer) -> dict[str, Any]:
    return {
        "abstained": answer.abstained,
        "support": answer.support,
        "queries": list(answer.queries),
        "notes": list(answer.notes),
        "seconds": dict(answer.seconds),
        "dropped_citations": answer.usage.dropped_citations,
        "hits": [{"doc_id": hit.chunk.doc_id, "chunk_id": hit.chunk.id, "score": hit.score} for hit in answer.hits],
    }


def _usage(answer: Answer) -> dict[str, Any]:
    used = answer.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def completion(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    """The whole answer as one ``chat.completion``."""
    message = {"role": "assistant", "content": answer.text, "annotations": citations_of(answer)}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(answer),
        "rag": _extras(answer),
    }


def server_sent_events(request: ChatRequest, events: Iterable[Event]) -> Iterator[str]:
    """``chat.completion.chunk`` events as the answer is written; citations ride on the last one; then ``[DONE]``."""
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.model,
    }

    def line(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        body = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    yield line({"role": "assistant", "content": ""})
    for event in events:
        match event:
            case TextEvent(text) if text:
                yield line({"content": text})
            case AnswerEvent(answer):
                yield line({"annotations": citations_of(answer)}, "stop", usage=_usage(answer), rag=_extras(answer))
            case _:
                pass
    yield "data: [DONE]\n\n"


def error_event(message: str, kind: str) -> str:
    """A failure after the stream has begun, in the form clients look for."""
    return f"data: {json.dumps({'error': {'message': message, 'type': kind}})}\n\n"

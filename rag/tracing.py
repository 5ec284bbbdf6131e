"""OpenTelemetry spans of ingests and answers. Knows spans, events and OTEL_* variables; measures nothing itself and sends no text.

Spans exist only where OpenTelemetry is already loaded: by a program that traces itself, or by ``start`` because OTEL_* variables of the command
line's environment ask for it. Names and attributes follow the GenAI semantic conventions where those have a word (``gen_ai.operation.name``,
``gen_ai.data_source.id``, ``gen_ai.usage.*``); ours begin with ``rag.``. No question, passage, answer or file name is in any of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rag.core import Answer, AnswerEvent, Event, QueryEvent, StageEvent
from rag.errors import ConfigError, MissingExtra

_EXPORTERS = ("otlp", "console", "none")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(environment: Mapping[str, str] = os.environ) -> bool:
    """Sets up what OTEL_* variables ask for, for this process; whether they ask for anything.

    ``OTEL_TRACES_EXPORTER`` (``otlp``, ``console`` or ``none``; ``otlp`` if an OTLP endpoint is named); the exporter itself reads the others.
    Raises ``ConfigError`` for another exporter or protocol, ``MissingExtra`` without the SDK.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environment.get, _ENDPOINTS)) else "none")
    if exporter not in _EXPORTERS:
        raise ConfigError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not one of {', '.join(_EXPORTERS)}")
    if exporter == "none":
        return False
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    if exporter == "otlp" and protocol != "http/protobuf":
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not http/protobuf, the one that the extra 'otel' brings")
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
    except ImportError:
        raise MissingExtra("opentelemetry-sdk", "otel", "OTEL_TRACES_EXPORTER") from None
    provider = TracerProvider(
        resource=Resource.create({} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "ragstone"})
    )
    if exporter == "otlp":
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))  # stdout is the answer's
    trace.set_tracer_provider(provider)
    return True


def _loaded() -> Any:
    """OpenTelemetry's ``trace`` module if somebody loaded it, else ``None``: an import of ours would cost those who trace nothing."""
    return sys.modules.get("opentelemetry.trace")


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[dict[str, str | int]]:
    """A span around a block, child of the current one. What the block puts into the mapping it is given becomes attributes ``rag.*``."""
    told: dict[str, str | int] = dict(attributes)
    trace = _loaded()
    if trace is None:
        yield told
        return
    with trace.get_tracer("ragstone").start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
        try:
            yield told
        except BaseException as error:
            _failed(trace, current, error)
            raise
        finally:
            current.set_attributes({f"rag.{key}": value for key, value in told.items()})


@contextmanager
def parent(headers: Mapping[str, str]) -> Iterator[None]:
    """Spans of the block belong to the trace that a request's ``traceparent`` header names, if it has one."""
    if _loaded() is None or "traceparent" not in headers:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


def traced(events: Iterator[Event], operation: str) -> Iterator[Event]:
    """Passes events on, with a span ``rag.<operation>`` around all of them and one inside it for each stage, laid end to end as they ran.

    The span is never the current one: events are asked for by whoever reads the answer, between whatever else that does.
    """
    trace = _loaded()
    if trace is None:
        yield from events
        return
    tracer = trace.get_tracer("ragstone")
    whole = tracer.start_span(f"rag.{operation}", attributes={"gen_ai.operation.name": "invoke_workflow"})
    inside, cursor = trace.set_span_in_context(whole), time.time_ns()
    try:
        for event in events:
            if isinstance(event, StageEvent) and event.stage != "prompt":
                cursor = _stage(tracer, inside, event.stage, event.seconds, cursor, _stage_attributes(event))
            elif isinstance(event, AnswerEvent):
                _stage(tracer, inside, "generate", event.answer.seconds["generate"], cursor, _usage(event.answer))
                whole.set_attributes({"rag.citations": len(event.answer.citations), "rag.abstained": event.answer.abstained})
            yield event
    except GeneratorExit:  # the reader had enough; that is no failure
        raise
    except BaseException as error:
        _failed(trace, whole, error)
        raise
    finally:
        whole.end()


def _stage(tracer: Any, inside: Any, name: str, seconds: float, start_ns: int, attributes: Mapping[str, Any]) -> int:
    """Writes the span of a stage that is over; returns when it was."""
    end_ns = start_ns + round(seconds * 1e9)
    tracer.start_span(name, inside, attributes=attributes, start_time=start_ns).end(end_ns)
    return end_ns


def _stage_attributes(event: StageEvent) -> dict[str, Any]:
    attributes: dict[str, Any] = {"rag.hits": len(event.hits)}
    if isinstance(event, QueryEvent):
        return attributes | {"rag.queries": len(event.queries)}
    if event.hits and set(event.hits[0].why) == {event.stage}:  # nothing stands before an index
        attributes |= {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": event.stage}
    return attributes


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    if not usage.prompt_tokens:
        return {"rag.dropped_citations": usage.dropped_citations}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "rag.dropped_citations": usage.dropped_citations,
    }


def _failed(trace: Any, failing: Any, error: BaseException) -> None:
    """The kind of error only: messages may quote files and questions."""
    failing.set_attribute("error.type", type(error).__name__)
    failing.set_status(trace.Status(trace.StatusCode.ERROR))

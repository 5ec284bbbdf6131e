"""Spans of ingests and answers, against OpenTelemetry's own SDK; and that nothing is sent, or even imported, unless asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rag.errors import ConfigError, MissingExtra
from rag.pipeline import Rag
from rag.tracing import parent, start, traced

ROOT = Path(__file__).parents[1]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """What was recorded so far, by name."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra 'otel'")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield lambda: {span.name: span for span in memory.get_finished_spans()}


def test_an_answer_is_a_span_with_its_stages_inside(
    spans: Callable[[], dict[str, Any]], open_light: Callable[..., Rag], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "secret-name.txt").write_text("The heron nests in March.\n\nThe otter does not.")
    rag = open_light()
    rag.ingest(tmp_path / "docs")
    written = spans()
    assert set(written) >= {"rag.write", "read", "chunk", "index words", "commit", "prepare"}
    assert {span.parent.span_id for name, span in written.items() if name != "rag.write"} == {written["rag.write"].context.span_id}
    assert written["rag.write"].attributes == {"rag.chunks_added": 2, "rag.chunks_deleted": 0, "rag.failed": 0}
    answer = rag.ask("When does the heron nest?")
    found = spans()
    whole = found["rag.ask"]
    stages = [found[name] for name in answer.seconds]
    assert {span.parent.span_id for span in stages} == {whole.context.span_id}
    assert all((span.end_time - span.start_time) / 1e9 == pytest.approx(answer.seconds[span.name], abs=1e-8) for span in stages)
    assert whole.start_time <= stages[0].start_time and stages[-1].end_time <= whole.end_time + 1e6
    assert found["words"].attributes["gen_ai.operation.name"] == "retrieval"
    assert found["words"].attributes["gen_ai.data_source.id"] == "words"
    assert whole.attributes["rag.citations"] == len(answer.citations) > 0
    told = str([(span.name, dict(span.attributes), [str(event) for event in span.events]) for span in found.values()])
    assert not [word for word in ("heron", "secret-name", "March") if word in told]


def test_an_error_is_told_by_its_kind_alone(spans: Callable[[], dict[str, Any]]) -> None:
    def fails() -> Iterator[Any]:
        raise ValueError("the heron's question")
        yield

    with pytest.raises(ValueError, match="heron"):
        list(traced(fails(), "ask"))
    failed = spans()["rag.ask"]
    assert failed.attributes["error.type"] == "ValueError" and not failed.status.is_ok and "heron" not in failed.to_json()


def test_an_answer_that_is_not_read_to_its_end_is_no_error(
    spans: Callable[[], dict[str, Any]], open_light: Callable[..., Rag]
) -> None:
    events = traced(iter([1, 2, 3]), "ask")  # type: ignore[list-item]
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert "error.type" not in spans()["rag.ask"].attributes


def test_spans_join_the_trace_of_the_request(spans: Callable[[], dict[str, Any]]) -> None:
    with parent({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
        list(traced(iter(()), "ask"))
    assert f"{spans()['rag.ask'].context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin' is not one of otlp, console, none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc' is not http/protobuf"),
    ],
)
def test_what_is_not_offered_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start(environment)


def test_nothing_is_started_unless_asked_for() -> None:
    for environment in ({}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}):
        assert start(environment) is False


def test_without_the_package_the_command_that_brings_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ragstone\[otel\]'"):
        start({"OTEL_TRACES_EXPORTER": "console"})


@pytest.mark.parametrize("asked", [True, False])
def test_the_command_line_sends_spans_to_stderr_if_the_environment_says_so(tmp_path: Path, asked: bool) -> None:
    if asked:
        pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra 'otel'")
    (tmp_path / "a.txt").write_text("The heron nests in March.")
    (tmp_path / "rag.yaml").write_text("indexes: {words: {use: bm25}}\nchunker: {use: fixed}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {"OTEL_TRACES_EXPORTER": "console"} if asked else {}
    command = [sys.executable, "-m", "rag", "ingest", "a.txt", "--config", "rag.yaml", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert ('"name": "index words"' in done.stderr) is asked and '"rag.write"' not in done.stdout and done.stdout.startswith("{")

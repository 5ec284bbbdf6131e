"""How results look on a terminal and as JSON. Knows rich and the result types; decides nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rag.core import Answer, AnswerEvent, Citation, Event, Hit, QueryEvent, StageEvent, TextEvent
from rag.errors import RagError
from rag.ingest import IngestReport, Refusal
from rag.ingest import Progress as Step

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_SHOWN = 12
"""Lines about skipped files, and suffixes in one of them, before the rest is counted."""


def plain(value: Any) -> Any:
    """Dataclasses, named tuples and mappings as JSON values with their field names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")


def short(source: str) -> str:
    """A path below the current folder without the folder; other sources as they are."""
    try:
        return str(Path(source).relative_to(Path.cwd())) if os.path.isabs(source) else source
    except ValueError:
        return source


def counted(number: int, noun: str) -> str:
    """``1 chunk``, ``2 chunks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_report(report: IngestReport) -> None:
    """What an ingest did, bad files by name; of files that were not meant to be read the many of one kind are counted."""
    for refusal in report.failed:
        err.print(f"[red]failed[/] {escape(short(refusal.source))}: {escape(refusal.reason)}")
    for line in skipped_lines(report.skipped):
        err.print(f"[yellow]skipped[/] {escape(line)}")
    counts = {
        name: len(getattr(report, name)) for name in ("added", "changed", "renamed", "deleted", "unchanged", "failed", "skipped")
    }
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "no files"
    if report.dry_run:
        unread = (
            "; what is added or changed was not read, so damaged files count among it" if report.added or report.changed else ""
        )
        out.print(f"would apply: {said}{unread}")
    else:
        out.print(
            f"{said}; {counted(report.num_chunks_added, 'chunk')} encoded, {report.num_chunks_deleted} removed, {report.seconds:.1f} s"
        )


def skipped_lines(refusals: Sequence[Refusal]) -> list[str]:
    """A line for each file, but one for all that were left out for the same reason, with their suffixes counted; the longest list first."""
    by_reason: dict[str, list[str]] = {}
    for refusal in refusals:
        by_reason.setdefault(refusal.reason, []).append(refusal.source)
    told = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = []
    for reason, sources in told[:_SHOWN]:
        if len(sources) == 1:
            lines.append(f"{short(sources[0])}: {reason}")
            continue
        suffixes = Counter(Path(source).suffix.lower() or "no suffix" for source in sources).most_common()
        counted = ", ".join(f"{number} {suffix}" for suffix, number in suffixes[:_SHOWN])
        others = f", {sum(number for _, number in suffixes[_SHOWN:])} of other types" if len(suffixes) > _SHOWN else ""
        lines.append(f"{len(sources)} files ({counted}{others}): {reason}")
    if len(told) > _SHOWN:
        lines.append(f"{sum(len(sources) for _, sources in told[_SHOWN:])} more files for other reasons; --json lists them all")
    return lines


@contextmanager
def ingest_progress(*, quiet: bool) -> Iterator[Callable[[Step], None] | None]:
    """Bars on stderr when that is a terminal: files, and while an index is built, its chunks, how many a second, time left."""
    if quiet or not err.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, speed_estimate_period=3600.0) as bar:
        files = bar.add_task("files", total=None, unit="files")
        chunks = bar.add_task("", total=None, unit="", visible=False)

        def advance(step: Step) -> None:
            bar.update(files, completed=step.num_files_done, total=step.num_files, description=escape(short(step.source)[-40:]))
            if step.index and not step.num_done:
                bar.reset(chunks, total=step.num_chunks, visible=True, description=f"  {step.index}", unit="chunks")
            elif step.index:
                elapsed = bar.tasks[chunks].elapsed or 0.0
                rate = f"chunks, {step.num_done / elapsed:.0f}/s" if elapsed > 0 else "chunks"
                bar.update(chunks, completed=step.num_done, unit=rate)
            else:
                bar.update(chunks, visible=False)

        yield advance


@contextmanager
def interruptible(told: str) -> Iterator[None]:
    """Turns Ctrl-C in the block into the error "interrupted; ``told``"."""
    try:
        yield
    except KeyboardInterrupt:
        raise RagError(f"interrupted; {told}") from None


def print_hits(hits: Iterable[Hit], sources: Mapping[str, str]) -> None:
    """Hits with their source, the verdict of each stage and the beginning of the text."""
    for rank, hit in enumerate(hits, start=1):
        page = f", page {hit.chunk.meta['page']}" if hit.chunk.meta.get("page") else ""
        why = "  ".join(f"{stage} #{placed.rank} ({placed.score:.3f})" for stage, placed in hit.why.items())
        out.print(
            f"[bold]{rank}.[/] [cyan]{escape(short(sources.get(hit.chunk.doc_id, hit.chunk.doc_id)))}[/]{page}  [dim]{escape(why)}[/]"
        )
        text = " ".join(hit.chunk.text.split())
        out.print(f"   {escape(text[:300])}{'...' if len(text) > 300 else ''}")


def print_citation(citation: Citation) -> None:
    """Where a quotation stands."""
    page = f", page {citation.page}" if citation.page else ""
    quote = " ".join(citation.quote.split())
    out.print(
        f"  [bold]\\[{citation.number}][/] [cyan]{escape(short(citation.source))}[/]{page}, characters {citation.start}-{citation.end}"
        f"\n      [dim]{escape(quote[:240])}{'...' if len(quote) > 240 else ''}[/]"
    )


def print_stream(events: Iterable[Event]) -> Answer:
    """Writes the answer as it comes, then its citations and what each stage took; returns it."""
    answer: Answer | None = None
    for event in events:
        match event:
            case TextEvent(text):
                out.print(escape(text), end="")
            case AnswerEvent(answer):
                out.print()
            case QueryEvent(queries=queries, notes=notes) if err.is_terminal:
                for line in [*queries, *notes]:
                    err.print(f"[dim]  {escape(line)}[/]")
            case StageEvent(stage) if err.is_terminal:
                err.print(f"[dim]{escape(stage)} ...[/]", end="\r")
            case _:
                pass
    assert answer is not None
    for citation in answer.citations:
        print_citation(citation)
    spent = "  ".join(f"{escape(stage)} {seconds:.2f} s" for stage, seconds in answer.seconds.items())
    dropped = f"  ({answer.usage.dropped_citations} unverifiable citations dropped)" if answer.usage.dropped_citations else ""
    used = answer.usage
    cached = (
        f"  {used.cached_tokens} of {used.prompt_tokens} prompt tokens cached, {used.recomputed_tokens} of them computed anew, "
        f"about {used.saved_seconds:.2f} s saved"
        if used.cached_tokens
        else ""
    )
    out.print(f"[dim]{spent}{dropped}{cached}[/]")
    return answer

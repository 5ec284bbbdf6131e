"""The main job on real documents: ingest a folder, ask three questions, ingest again. No network, no GPU. ``make demo`` runs this.

Ends with exit code 1 if an answer does not cite the file and the words that ``expected.json`` names, or if the second ingest
finds anything to do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything that is needed lies on this machine

from rag import (
    Rag,
    terminal,
)

EXAMPLES = Path(__file__).resolve().parent
INDEX = EXAMPLES.parent / "demo.index"


def main() -> int:
    """Runs the demo; the exit code."""
    shutil.rmtree(INDEX, ignore_errors=True)
    rag = Rag.open(INDEX)
    terminal.out.rule("ingest examples/documents")
    with terminal.ingest_progress(quiet=False) as on_progress:
        report = rag.ingest(EXAMPLES / "documents", on_progress=on_progress)
    terminal.print_report(report)
    faults = [f"not ingested: {refusal.source}: {refusal.reason}" for refusal in report.failed]

    for wanted in json.loads((EXAMPLES / "expected.json").read_text(encoding="utf-8")):
        terminal.out.rule(wanted["question"])
        started = time.perf_counter()
        answer = terminal.print_stream(rag.stream(wanted["question"]))
        terminal.out.print(f"[dim]{time.perf_counter() - started:.2f} s in all[/]")
        cited = [c for c in answer.citations if Path(c.source).name == wanted["file"] and wanted["citation_contains"] in c.quote]
        if not cited:
            faults.append(f"{wanted['question']} no citation of {wanted['file']} with {wanted['citation_contains']!r}")

    terminal.out.rule("ingest again")
    again = rag.ingest(EXAMPLES / "documents")
    terminal.print_report(again)
    if again.num_chunks_added or again.added or again.changed:
        faults.append("the second ingest was not empty")
    for fault in faults:
        terminal.err.print(f"[red]{fault}[/]")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

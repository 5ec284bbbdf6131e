"""Five lines to an answer with checked citations: ``python examples/quickstart.py [QUESTION]``."""

import sys
from pathlib import Path

from rag import Rag

HERE = Path(__file__).parent


def main(question: str) -> None:
    with Rag.open("demo.index") as rag:
        report = rag.ingest(HERE / "documents")  # the second time, nothing is left to do
        print(f"{len(report.added)} added, {len(report.unchanged)} unchanged, {len(report.failed)} failed\n")

        answer = rag.ask(question)
        print(answer.text)
        for citation in answer.citations:  # each one was checked: document.text[start:end] == quote
            page = f", page {citation.page}" if citation.page else ""
            print(f"[{citation.number}] {Path(citation.source).name}{page}, characters {citation.start}-{citation.end}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How does the Boots self-locking nut stay tight despite vibration?")

"""One door to every layout of question sets. Knows what each layout looks like from outside; its reader knows the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rag.errors import ReadError
from rag.eval.question_set import QuestionSet
from rag.eval.read_collections import read_beir_questions, read_span_questions
from rag.eval.read_documents import read_cofe, read_table
from rag.eval.read_own import QUESTIONS, read_own
from rag.eval.read_passages import read_clapnq, read_mtrag, read_pubmedqa
from rag.eval.read_records import json_file, json_of, lines_of
from rag.eval.read_squad import read_long_documents, read_squad
from rag.eval.transcripts import is_transcripts

EXPECTED = (
    "a folder with questions.jsonl and documents/ or corpus.jsonl (ours); corpus.jsonl, queries.jsonl and qrels/ (BEIR); questions_df.csv and "
    "corpora/ (chunking_evaluation); *.jsonl with meeting_transcripts (QMSum); or a file: SQuAD or XQuAD JSON, long documents with questions "
    "(JSONL), MTRAG reference tasks (JSONL), CLAP NQ (JSONL), PubMedQA (JSON), CoFE-RAG (JSON, documents/ beside it), a CSV table with the "
    "columns question, answer, source, evidence (documents/ beside it)"
)

_JSONL: Mapping[frozenset[str], Callable[[Path], QuestionSet]] = {
    frozenset({"task_id", "contexts", "input"}): read_mtrag,
    frozenset({"input", "passages", "output"}): read_clapnq,
    frozenset({"doc_id", "text", "questions"}): read_long_documents,
    frozenset({"id", "question"}): read_own,
}
"""Keys that the first line must have -> reader. More telling ones first."""


def read_questions(path: Path | str) -> QuestionSet:
    """The set in a folder or a file, whose layout is told from its content.

    Raises ``ValueError`` that says what was expected if it is in no known layout, ``ReadError`` with the place for a fault inside one,
    ``FileNotFoundError`` if there is nothing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return _folder(path) if path.is_dir() else _file(path)


def _folder(folder: Path) -> QuestionSet:
    if (folder / QUESTIONS).is_file():
        return read_own(folder)
    if (folder / "queries.jsonl").is_file() and (folder / "corpus.jsonl").is_file():
        return read_beir_questions(folder)
    if (folder / "questions_df.csv").is_file() or is_transcripts(folder):
        return read_span_questions(folder)
    candidates = [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jsonl", ".csv") and _is_known(file)]
    if len(candidates) == 1:
        return _file(candidates[0])
    found = ", ".join(file.name for file in candidates) if candidates else "none of its files is a question set"
    raise _unknown(folder, f"several question sets ({found}): name one" if candidates else found)


def _is_known(file: Path) -> bool:
    try:
        return _reader(file) is not None
    except ReadError:
        return False


def _file(path: Path) -> QuestionSet:
    read = _reader(path)
    if read is None:
        raise _unknown(path, "its content is in no known layout")
    return read(path)


def _reader(path: Path) -> Callable[[Path], QuestionSet] | None:
    if path.suffix == ".csv":
        return read_table
    if path.suffix == ".jsonl":
        number, line = next(lines_of(path), (1, "{}"))
        value = json_of(path, f"line {number}", line)
        keys = set(value) if isinstance(value, dict) else set()
        if "meeting_transcripts" in keys:
            return lambda file: read_span_questions(file.parent)
        return next((read for wanted, read in _JSONL.items() if wanted <= keys), None)
    return _json_reader(json_file(path)) if path.suffix == ".json" else None


def _json_reader(value: Any) -> Callable[[Path], QuestionSet] | None:
    first = value[0] if isinstance(value, list) and value else next(iter(value.values()), None) if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return lambda path: read_squad(path, value)
    if isinstance(value, dict) and isinstance(value.get("examples"), list):
        return lambda path: read_cofe(path, value)
    if isinstance(value, list) and isinstance(first, dict) and "query" in first:
        return lambda path: read_cofe(path, value)
    if isinstance(first, dict) and {"QUESTION", "CONTEXTS"} <= set(first):
        return lambda path: read_pubmedqa(path, value)
    return None


def _unknown(path: Path, found: str) -> ValueError:
    return ValueError(f"{str(path)!r} is no question set: {found}. Expected {EXPECTED}")

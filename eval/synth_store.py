"""The folder that made-up questions grow in: JSONL, appended to, gone on with after an interruption. Knows files; makes nothing.

    questions.jsonl   a ``rag.eval.question.Question`` per line
    manifest.jsonl    first the settings, then one line per finished task: its key, the ids it kept, why it was dropped
    corpus.jsonl      the documents, ``{"source", "text"}``, so that the folder is a whole test set

A task is finished when its line in the manifest is whole. Questions of a task that is not are left out when the folder is opened
again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.core import Document
from rag.errors import ConfigError, ReadError
from rag.eval.question import Question

QUESTIONS, MANIFEST, CORPUS = "questions.jsonl", "manifest.jsonl", "corpus.jsonl"


class Finished(BaseModel):
    """A task that was done: what it kept, or why it kept nothing. ``num_refused``: clauses that no source held."""

    model_config = ConfigDict(extra="forbid")
    task: str
    type: str
    kept: list[str] = []
    dropped: str | None = None
    told: str = ""
    num_refused: int = 0


class SynthFolder:
    """An open folder. ``settings``: what must be the same for a run to go on with another's work.

    Raises ``ConfigError`` if the folder was begun with other settings, ``ReadError`` if it holds something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.finished: dict[str, Finished] = {}
        self.questions: list[Question] = []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            self._resume(settings)
        elif (folder / QUESTIONS).exists():
            raise ReadError(folder, f"holds {QUESTIONS} without {MANIFEST}: it was not made here; name a new folder")
        else:
            _replace(folder / QUESTIONS, "")
            _replace(folder / MANIFEST, json.dumps({"settings": dict(settings)}) + "\n")

    def _resume(self, settings: Mapping[str, Any]) -> None:
        lines = _whole_lines(self.folder / MANIFEST)
        try:
            begun = json.loads(lines[0])["settings"]
            finished = [Finished.model_validate_json(line) for line in lines[1:]]
            questions = [Question.model_validate_json(line) for line in _whole_lines(self.folder / QUESTIONS)]
        except (IndexError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
            raise ReadError(self.folder, f"its {MANIFEST} or {QUESTIONS} is damaged ({str(error).splitlines()[0]})") from None
        wanted = json.loads(json.dumps(dict(settings)))
        if begun != wanted:
            changed = next(name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name))
            raise ConfigError(
                f"{self.folder} was begun with {changed}={begun.get(changed)!r}, not {wanted.get(changed)!r}; name a new folder"
            )
        self.finished = {each.task: each for each in finished}
        kept = {identity for each in finished for identity in each.kept}
        self.questions = [question for question in questions if question.id in kept]
        _replace(
            self.folder / QUESTIONS, "".join(question.model_dump_json(exclude_defaults=True) + "\n" for question in self.questions)
        )
        _replace(self.folder / MANIFEST, "\n".join(lines) + "\n")  # without a torn last line

    def finish(self, done: Finished, question: Question | None = None) -> None:
        """Writes a task down, its question first."""
        if question is not None:
            _append(self.folder / QUESTIONS, question.model_dump_json(exclude_defaults=True))
            self.questions.append(question)
        _append(self.folder / MANIFEST, done.model_dump_json())
        self.finished[done.task] = done

    def write_corpus(self, documents: Iterable[Document]) -> None:
        """Writes the documents, each text character by character."""
        part = self.folder / (CORPUS + ".part")
        with part.open("w", encoding="utf-8") as file:
            for each in documents:
                file.write(json.dumps({"source": each.source, "text": each.text}, ensure_ascii=False) + "\n")
        os.replace(part, self.folder / CORPUS)

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> tasks that were dropped for it."""
        return Counter(each.dropped for each in self.finished.values() if each.dropped)

    @property
    def num_refused(self) -> int:
        """Clauses that no source held, in all."""
        return sum(each.num_refused for each in self.finished.values())


def _whole_lines(path: Path) -> list[str]:
    """The lines that end in a line break; a torn one at the end is none."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)

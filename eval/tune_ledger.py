"""What a tuning has measured so far, in memory and, line by line, in a file. Knows values and costs; decides nothing.

The file is JSON lines, each written and flushed when its evaluation ends, so a tuning that was interrupted goes on where it stood. A
last line that was cut short is as if it had never been written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag.core import digest


class Ledger:
    """Values per configuration and question. ``None`` is a value: the question was asked and has nothing to say by this measure.

    ``settings``: what makes two tunings the same. Raises ``ValueError`` if ``path`` holds a tuning with other settings or is no ledger.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.values: dict[str, dict[str, float | None]] = {}
        self.costs: dict[str, dict[str, float]] = {}
        self.failed: dict[str, str] = {}
        self.decisions: dict[str, tuple[list[str], list[str]]] = {}
        self.measure: str | None = None
        self._spent: list[tuple[int, float]] = []
        self._path = path
        self._print = digest(json.dumps(settings, sort_keys=True, default=str))
        if path is not None:
            self._open(path)

    @property
    def num_evaluations(self) -> int:
        """Evaluations that were made, those that failed included."""
        return sum(number for number, _ in self._spent)

    @property
    def seconds(self) -> float:
        """What they took."""
        return sum(seconds for _, seconds in self._spent)

    def pace(self) -> float:
        """Seconds per evaluation; 0 before there is one. The first call loads models and makes the index, so it counts only while it is alone."""
        later = self._spent[1:] or self._spent
        number = sum(each for each, _ in later)
        return sum(seconds for _, seconds in later) / number if number else 0.0

    def missing(self, name: str, questions: Iterable[str]) -> list[str]:
        """The questions that ``name`` was not asked yet."""
        known = self.values.get(name, {})
        return [question for question in questions if question not in known]

    def known(self, name: str, questions: Sequence[str]) -> dict[str, float]:
        """The values of ``name``, of those of ``questions`` that have one."""
        own = self.values.get(name, {})
        found = ((question, own.get(question)) for question in questions)
        return {question: value for question, value in found if value is not None}

    def spend(self, num_evaluations: int, seconds: float) -> None:
        """Counts an evaluation that was made, whatever came of it."""
        self._add({"spent": num_evaluations, "seconds": seconds})

    def record(self, name: str, values: Mapping[str, float | None], cost: Mapping[str, float]) -> None:
        """Keeps what an evaluation found for a configuration; ``cost`` replaces what was known before."""
        self._add({"config": name, "values": dict(values), "cost": dict(cost)})

    def fail(self, name: str, why: str) -> None:
        """Keeps that a configuration cannot be evaluated."""
        self._add({"config": name, "failed": why})

    def name_measure(self, measure: str) -> None:
        """Keeps which measure was chosen where none was given."""
        self._add({"measure": measure})

    def decide(self, decision: str, kept: Sequence[str], for_noise: Sequence[str]) -> None:
        """Keeps who goes on after a rung, once."""
        if decision not in self.decisions:
            self._add({"decision": decision, "kept": list(kept), "for_noise": list(for_noise)})

    def _add(self, line: dict[str, Any]) -> None:
        self._take(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def _take(self, line: Mapping[str, Any]) -> None:
        if "spent" in line:
            self._spent.append((int(line["spent"]), float(line["seconds"])))
        elif "measure" in line:
            self.measure = str(line["measure"])
        elif "decision" in line:
            self.decisions[str(line["decision"])] = (list(line["kept"]), list(line["for_noise"]))
        elif "failed" in line:
            self.failed[line["config"]] = str(line["failed"])
        else:
            self.values.setdefault(line["config"], {}).update(line["values"])
            self.costs[line["config"]] = dict(line["cost"])

    def _open(self, path: Path) -> None:
        begin = json.dumps({"tuning": self._print}) + "\n"
        if not path.exists() or not path.stat().st_size:
            path.write_text(begin, encoding="utf-8")
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        whole, _, torn = text.rpartition("\n")
        lines = [_parsed(path, number, line) for number, line in enumerate(whole.split("\n"), start=1)]
        if lines[0].get("tuning") != self._print:
            if "tuning" in lines[0] and not any("values" in line for line in lines):  # nothing was measured, so nothing is lost
                path.write_text(begin, encoding="utf-8")
                return
            raise ValueError(
                f"{path} holds a tuning of other configurations, questions or settings; choose another --out, or remove it"
            )
        if torn:
            path.write_text(whole + "\n", encoding="utf-8")
        for line in lines[1:]:
            self._take(line)


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}, line {number}: {line[:60]!r} is no line of a tuning")  # noqa: TRY004 - a fault of the file, not of a type
    return found

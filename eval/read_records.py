"""JSON and JSONL files as checked records, every fault named by file and place. Knows no layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rag.errors import ReadError

Model = TypeVar("Model", bound=BaseModel)
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell half a character; UTF-8, and so the index, cannot hold it


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1. Only ``\\n`` ends a line: JSON strings may hold the others. Raises ``ReadError``."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise bad_place(path, f"line {number}", f"not UTF-8 ({error.reason} at byte {error.start})") from None
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ReadError(path, error.strerror or type(error).__name__) from error


def records_of(path: Path, model: type[Model]) -> Iterator[tuple[int, Model]]:
    """Each line of a JSONL file as a ``model``, with its number. Raises ``ReadError`` with the line and the key."""
    for number, line in lines_of(path):
        yield number, checked(path, f"line {number}", model, json_of(path, f"line {number}", line))


def json_file(path: Path) -> Any:
    """A JSON file's value. Raises ``ReadError``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ReadError(path, error.strerror or type(error).__name__) from error
    return json_of(path, "", text)


def json_of(path: Path, place: str, text: str) -> Any:
    """A JSON value from ``text``, which stands in ``path`` at ``place``. Raises ``ReadError``."""
    try:
        return _clean(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise bad_place(path, place, f"not JSON ({error})") from None


def checked(path: Path, place: str, model: type[Model], value: Any) -> Model:
    """``value`` as a ``model``. Raises ``ReadError`` with the place and the key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise bad_place(path, place, f"{key}: {problem['msg']}" if key else str(problem["msg"])) from None


def bad_place(path: Path, place: str, reason: str) -> ReadError:
    """The error for something at ``place`` of ``path``."""
    return ReadError(path, f"{place}: {reason}" if place else reason)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value

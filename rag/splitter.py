"""Models that find sentences, for whoever takes a ``splitter``. Knows two libraries; knows no chunk and no token.

A splitter says where sentences are in a text of any length; ``models: {splitter: {use: sat, model: a/folder}}`` hands one to
every chunker that takes it.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from rag.core import Span
from rag.errors import ModelError
from rag.quiet import quiet_loading
from rag.sentences import sentence_spans


class NupunktSplitter:
    """What everybody does who is given no splitter: Punkt (Kiss and Strunk, 2006) by nupunkt, line by line where that helps."""

    def spans(self, text: str) -> list[Span]:
        """The sentences in order, without the blanks around them."""
        return sentence_spans(text)


class SatSplitter:
    """Segment any Text (Frohmann et al., "Segment any Text", EMNLP 2024) by the package ``wtpsplit``: 85 languages, and texts
    without punctuation.

    ``model`` is a folder that holds ``config.json``, the weights and, unless ``tokenizer_folder`` names another, the tokenizer
    files of XLM-RoBERTa. Nothing is ever fetched. A sentence ends where the model's probability is above ``threshold`` (``None``:
    the package's choice, which goes by the folder's name: 0.25 for the ``-sm`` models, 0.025 for others), and at a line break.

    Raises ``ModelError`` if the package is missing or the folder holds no such model.
    """

    def __init__(
        self, model: str, tokenizer_folder: str | None = None, threshold: float | None = None, device: str = "cpu"
    ) -> None:
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1")
        self.threshold = threshold
        self._sat = _load(model, tokenizer_folder or model, device)

    def spans(self, text: str) -> list[Span]:
        """The sentences in order, without the blanks around them."""
        if not text.strip():
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that line breaks stay in, which is what is wanted: offsets stay right
            pieces = self._sat.split(text, threshold=self.threshold, split_on_input_newlines=False)
        spans: list[Span] = []
        place = 0
        for piece in pieces:
            if not text.startswith(piece, place):
                raise ModelError(f"the sentence splitter lost text near character {place}: {text[place : place + 40]!r}")
            for line in piece.splitlines(keepends=True):
                solid = line.strip()
                if solid:
                    start = place + len(line) - len(line.lstrip())
                    spans.append(Span(start, start + len(solid)))
                place += len(line)
        return spans


def _load(model: str, tokenizer_folder: str, device: str) -> Any:
    for folder, file in ((model, "config.json"), (tokenizer_folder, "tokenizer_config.json")):
        if not (Path(folder) / file).is_file():
            raise ModelError(f"splitter {model!r}: {folder!r} is not a local folder with a {file}; download the model first")
    try:
        package: Any = import_module("wtpsplit")
    except ImportError as error:
        raise ModelError(f"splitter {model!r} needs the package wtpsplit: pip install wtpsplit ({error})") from error
    try:
        with quiet_loading():
            sat = package.SaT(model, tokenizer_name_or_path=tokenizer_folder)
        return sat.to(device) if device != "cpu" else sat
    except Exception as error:  # the package and transformers raise whatever comes
        raise ModelError(f"splitter {model!r} cannot be loaded: {error}") from error

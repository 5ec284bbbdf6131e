"""A model that finds out which words mean the same person or thing. Knows one library; knows no chunk.

``models: {resolver: {use: fastcoref, model: a/folder}}`` hands it to the chunker ``coref``.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from rag.core import Span
from rag.errors import ModelError
from rag.quiet import quiet_loading

_WORD = re.compile(r"\w+|[^\w\s]")


class FastcorefResolver:
    """F-coref (Otmazgin et al., AACL 2022) by the package ``fastcoref``, for English.

    ``model`` is a folder as ``save_pretrained`` leaves it (the published one is biu-nlp/f-coref); nothing is ever fetched, and the words
    are cut here, so that no spaCy model is needed. Raises ``ModelError`` if the package is missing or the folder holds no such model.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        if not (Path(model) / "config.json").is_file():
            raise ModelError(f"resolver {model!r} is not a local folder with a config.json; download the model first")
        try:
            package = _silently_imported()
        except ImportError as error:
            raise ModelError(f"resolver {model!r} needs the package fastcoref: pip install fastcoref ({error})") from error
        try:
            with quiet_loading():
                self._model: Any = package.FCoref(model, device=device, nlp=None, enable_progress_bar=False)
        except Exception as error:  # the package and transformers raise whatever comes
            raise ModelError(f"resolver {model!r} cannot be loaded: {error}") from error

    def clusters(self, text: str) -> list[list[Span]]:
        """The mentions of each person or thing that is mentioned more than once."""
        words = [Span(*match.span()) for match in _WORD.finditer(text)]
        if not words:
            return []
        [found] = self._model.predict([[word.of(text) for word in words]], is_split_into_words=True)
        # given words, it answers in numbers of words, the last one not included
        return [
            [Span(words[mention[0]].start, words[mention[1] - 1].end) for mention in cluster if mention is not None]
            for cluster in found.get_clusters(as_strings=False)
        ]


def _silently_imported() -> Any:
    """The package, without the log handler that its import gives to the whole program, and without its progress bars."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        package = import_module("fastcoref")
        model = import_module("fastcoref.coref_models.modeling_fcoref").FCorefModel
        import_module("datasets").disable_progress_bars()
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
    logging.getLogger("fastcoref").setLevel(logging.ERROR)
    if not hasattr(model, "all_tied_weights_keys"):  # fastcoref 2.1 is made for transformers 4, which did not ask for it
        model.all_tied_weights_keys = {}
    return package

"""Ragstone: the whole retrieval-augmented generation chain on your own hardware, every stage of it provable.

    >>> from rag import Rag
    >>> rag = Rag.open("my.index")  # doctest: +SKIP
    >>> rag.ingest("docs/")  # doctest: +SKIP
    >>> rag.ask("What did we promise about uptime?").text  # doctest: +SKIP

Importing this package loads no model library; each name below is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.config import Config
    from rag.core import Answer, Chunk, Citation, Document, Element, Hit, Span
    from rag.errors import RagError
    from rag.ingest import IngestReport
    from rag.pipeline import Rag

__version__ = "0.1.0"

_HOMES = {
    "Answer": "rag.core",
    "Chunk": "rag.core",
    "Citation": "rag.core",
    "Config": "rag.config",
    "Document": "rag.core",
    "Element": "rag.core",
    "Hit": "rag.core",
    "IngestReport": "rag.ingest",
    "Rag": "rag.pipeline",
    "RagError": "rag.errors",
    "Span": "rag.core",
}

__all__ = ["Answer", "Chunk", "Citation", "Config", "Document", "Element", "Hit", "IngestReport", "Rag", "RagError", "Span"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rag' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

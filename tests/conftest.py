from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from rag.pipeline import Rag
from tests.fakes import ParagraphChunker, QuotingGenerator, WordIndex

settings.register_profile("ragstone", deadline=None)  # a shared machine stalls
settings.load_profile("ragstone")

LIGHT = {"indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}}


@pytest.fixture
def open_light(tmp_path: Path) -> Callable[..., Rag]:
    """Opens an index whose components are the fakes: the pipeline, the catalog and the files are real."""

    def opened(folder: Path | None = None, **components: Any) -> Rag:
        parts = {"indexes.words": WordIndex(), "chunker": ParagraphChunker(), "generator": QuotingGenerator(), **components}
        return Rag.open(folder or tmp_path / "index", LIGHT, components=parts)

    return opened

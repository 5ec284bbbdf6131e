"""How well chunks keep to the sections of laid-out documents: NMI and purity. Knows headings and chunkers; searches nothing.

Every character that is not blank is one item; its true group is the stretch between two headings that it stands in. A chunker that
starts a chunk at every heading is nearly pure by construction; NMI falls with every chunk more than there are sections,
purity rises with it, so both mean something only beside the number of chunks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.markup import escape
from rich.table import Table

from rag import config as configuration
from rag.config import Assembly, Config
from rag.core import Chunk, Document, chunk_many
from rag.eval.clusters import nmi, purity
from rag.eval.contenders import Contender


@dataclass(frozen=True, slots=True)
class Kept:
    """One chunker on one document. ``runs_per_cluster``: pieces of text per group, where chunks say that they belong together."""

    nmi: float
    purity: float
    num_chunks: int
    runs_per_cluster: float


@dataclass(frozen=True, slots=True)
class SectionsReport:
    """``scores``: chunker -> source -> ``Kept``. ``num_sections`` by source; ``left_out``: sources with fewer than two sections."""

    num_sections: Mapping[str, int]
    left_out: Sequence[str]
    scores: Mapping[str, Mapping[str, Kept]]

    def table(self) -> Table:
        """Means over documents, a chunker a row."""
        table = Table(
            title=f"Chunks against sections, means over {len(self.num_sections)} documents", title_justify="left", box=MARKDOWN
        )
        table.add_column("chunker", no_wrap=True)
        for column in ("NMI", "purity", "chunks", "runs per cluster"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, of_document in self.scores.items():
            rows = list(of_document.values())
            means = [
                statistics.mean(getattr(row, field) for row in rows)
                for field in ("nmi", "purity", "num_chunks", "runs_per_cluster")
            ]
            table.add_row(escape(name), f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.1f}", f"{means[3]:.2f}")
        return table

    def json(self) -> str:
        """Everything, document by document, as indented JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def evaluate_sections(
    documents: Sequence[Document],
    contenders: Sequence[Contender],
    config: Mapping[str, Any] | str | Path | Config | None = None,
    components: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] = lambda said: None,
) -> SectionsReport:
    """Cuts every document that has at least two sections with every contender. ``components``: ready models by name.

    Raises ``ValueError`` if no document has two sections, ``ConfigError`` that names a contender that cannot be built.
    """
    judged = [document for document in documents if len(np.unique(sections(document))) > 1]
    if not judged:
        raise ValueError(f"none of {len(documents)} documents has two sections; headings are needed to tell sections apart")
    base = configuration.raw(config)
    models = Assembly(configuration.load(base), components)
    scores: dict[str, dict[str, Kept]] = {}
    for number, contender in enumerate(contenders, start=1):
        on_progress(f"{number} of {len(contenders)}: {contender.name}")
        given = configuration.load(contender.configured(base))
        needed = configuration.models_of(given, "chunker", given.chunker)
        chunker = Assembly(given, {name: models.model(name) for name in needed}).build("chunker", "chunker", given.chunker)
        made = zip(judged, chunk_many(chunker, judged), strict=True)
        scores[contender.name] = {document.source: kept(document, chunks) for document, chunks in made}
    num_sections = {document.source: len(np.unique(sections(document))) for document in judged}
    return SectionsReport(num_sections, [document.source for document in documents if document.source not in num_sections], scores)


def sections(document: Document) -> NDArray[np.int64]:
    """For every character that is not blank, how many headings start at or before it, ``(solid characters,)``."""
    starts = np.zeros(len(document.text), dtype=np.int64)
    starts[[element.span.start for element in document.elements if element.kind == "heading"]] = 1
    return starts.cumsum()[solid(document.text)]


def solid(text: str) -> NDArray[np.bool_]:
    """Which characters are not blank, ``(characters,)``."""
    return np.array([not character.isspace() for character in text], dtype=np.bool_)


def kept(document: Document, chunks: Sequence[Chunk], *, together: bool = True) -> Kept:
    """``together``: chunks of the same ``meta["cluster"]`` are one group, as the S2 method means them; else each is its own.

    Characters in no chunk are a group of their own; of overlapping chunks the later one counts.
    """
    names = [
        ("cluster", chunk.meta["cluster"]) if together and "cluster" in chunk.meta else ("chunk", n)
        for n, chunk in enumerate(chunks)
    ]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    labels = np.full(len(document.text), -1, dtype=np.int64)
    for name, chunk in zip(names, chunks, strict=True):
        labels[chunk.span.start : chunk.span.end] = number_of[name]
    found, true = labels[solid(document.text)], sections(document)
    num_runs = sum(1 for _ in groupby(names))
    return Kept(nmi(found, true), purity(found, true), len(number_of), num_runs / max(len(number_of), 1))

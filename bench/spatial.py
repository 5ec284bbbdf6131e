"""Do chunks follow the sections of a page? NMI and purity of chunks against the sections between headings, at most 256 tokens a chunk.

    python bench/spatial.py --data ../shared/data/documents

``truth``: PDFs with a DoclingDocument as truth; its elements and boxes are cut, its headings are the labels. ``reader``: what our
own reader makes of PDFs, its elements and its headings. Every character that is not blank is one item. Compared are

- ``greedy``: whole elements in reading order, as many as fit, headings not looked at (a longer element in pieces);
- ``structure``: the default chunker; and ``layout``: ``spatial`` with its defaults. Both start a chunk at a heading, and the
  labels *are* the stretches between headings: that they are nearly pure holds by construction and proves nothing about boxes;
- ``layout, links``: a heading only stays with what follows it; ``layout, no headings``: a heading is an element like any other,
  so what is found is found by distance and meaning alone; the same with ``by layout alone`` (no encoder) and ``by meaning alone``;
- ``s2 clusters``: the published method, a cluster (cut in sequence at the limit) being one chunk, however scattered;
  ``s2 runs``: each contiguous run of one by itself, as our chunker gives it.

The defaults ``semantic_weight`` and ``resolution`` (both a half) were set before anything was measured. That a heading is four
lines farther than it looks, and the rule for small sections, were settled on these documents, so their gain is not independent;
neither plays a part in ``layout, no headings``.

NMI falls with every chunk more than there are sections, purity rises with it; so the number of chunks stands beside both.
``runs_per_cluster``: in how many pieces of text a published chunk falls, on average (1: contiguous). Where there is but one section NMI
is 0 for everybody, whatever the chunks, so only documents of two sections or more say anything; they are counted apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.chunkers.layout import Layout
from rag.chunkers.ruler import Ruler
from rag.chunkers.spatial import SpatialChunker
from rag.chunkers.spatial_nodes import NodeMaker
from rag.chunkers.structure import StructureChunker
from rag.core import Chunk, Document, ElementKind, Encoder, Span, Tokenizer
from rag.eval.sections import kept, sections
from rag.read.draft import TextBuilder
from rag.read.worker import read_file
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.tokenizer_huggingface import HuggingFaceTokenizer

MAX_TOKENS = 256
SEPARATE = "s2 clusters"
KINDS: Mapping[str, ElementKind] = {
    "title": "heading", "section_header": "heading", "list_item": "list", "caption": "caption", "code": "code",
}  # fmt: skip
READER_FILES = (
    "docling/pdf/code_and_formula.pdf",
    "docling/pdf/multi_page.pdf",
    "acl_anthology/2020.acl-main.447.pdf",
    "acl_anthology/2023.eacl-main.121.pdf",
    "pdfplumber/federal-register-2020-17221.pdf",
    "py-pdf/GeoTopo-komprimiert.pdf",
)


class Remembering:
    """An encoder that encodes each text once: the contenders cut the same elements."""

    def __init__(self, encoder: Encoder) -> None:
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known |= zip(new, self._encoder.encode_documents(new), strict=True) if new else ()
        return np.stack([self._known[text] for text in texts])

    encode_queries = encode_documents


def truth(path: Path) -> Document:
    """The document that a DoclingDocument describes: its body in reading order, without furniture, boxes from the top left."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    heights = {int(number): page["size"]["height"] for number, page in whole["pages"].items()}
    builder = TextBuilder()

    def walk(reference: str, inside: ElementKind | None) -> None:
        _, part, *number = reference.split("/")
        node = whole[part][int(number[0])] if number else whole[part]
        if node.get("content_layer") == "furniture":
            return
        page, box = None, None
        if node.get("prov"):
            place = node["prov"][0]
            page, edges = place["page_no"], place["bbox"]
            assert edges["coord_origin"] == "BOTTOMLEFT", reference
            box = (edges["l"], heights[page] - edges["t"], edges["r"], heights[page] - edges["b"])
        if part == "tables":
            rows = [[cell["text"] for cell in row] for row in node["data"]["grid"]]
            builder.add_table(rows, page=page, bbox=box)
        elif part == "texts" and node["label"] not in ("page_header", "page_footer"):
            kind = KINDS.get(node["label"]) or inside or "paragraph"
            level = node.get("level", 1) if kind == "heading" else None
            builder.add(node["text"], kind, level=level, page=page, bbox=box)
        for child in node["children"]:
            walk(child["$ref"], "figure" if part == "pictures" else inside)

    walk("#/body", None)
    return builder.draft().document(path.name)


def greedy(document: Document, tokenizer: Tokenizer) -> list[Chunk]:
    """Whole elements in reading order, as many as fit."""
    nodes = NodeMaker(document, Layout(document), Ruler(document.text, tokenizer), MAX_TOKENS).nodes("ignore", 0)
    spans: list[Span] = []
    held = MAX_TOKENS
    for node in nodes:
        if held + node.num_tokens > MAX_TOKENS:
            spans.append(node.span)
            held = 0
        spans[-1] = Span(spans[-1].start, node.span.end)
        held += node.num_tokens
    return [Chunk.of(document, span) for span in spans]


def all_chunks(document: Document, encoder: Encoder, tokenizer: Tokenizer) -> Iterator[tuple[str, list[Chunk]]]:
    """The chunks of each contender."""

    def spatial(**options: Any) -> list[Chunk]:
        return SpatialChunker(encoder, tokenizer, max_tokens=MAX_TOKENS, **options).chunk(document)

    yield "greedy", greedy(document, tokenizer)
    yield "structure", StructureChunker(tokenizer, max_tokens=MAX_TOKENS).chunk(document)
    yield "layout", spatial()
    yield "layout, links", spatial(headings="link")
    yield "layout, no headings", spatial(headings="ignore")
    yield "layout, no headings, by layout alone", spatial(headings="ignore", semantic_weight=0.0)
    yield "layout, no headings, by meaning alone", spatial(headings="ignore", semantic_weight=1.0)
    published = spatial(mode="s2")
    yield SEPARATE, published
    yield "s2 runs", published


def scores(document: Document, name: str, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """NMI, purity and counts of one contender."""
    found = kept(document, chunks, together=name == SEPARATE)
    row: dict[str, Any] = {"nmi": round(found.nmi, 4), "purity": round(found.purity, 4), "chunks": found.num_chunks}
    return row | ({"runs_per_cluster": round(found.runs_per_cluster, 2)} if name == SEPARATE else {})


def compare(documents: Sequence[tuple[str, Document]], encoder: Encoder, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    rows = []
    for name, document in documents:
        row: dict[str, Any] = {
            "file": name,
            "elements": len(document.elements),
            "tokens": tokenizer.count(document.text),
            "sections": len(np.unique(sections(document))),
            "chunkers": {each: scores(document, each, chunks) for each, chunks in all_chunks(document, encoder, tokenizer)},
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def at_least_greedy(row: Mapping[str, Any], name: str) -> bool:
    return bool(row["chunkers"][name]["nmi"] >= row["chunkers"]["greedy"]["nmi"])


def scatters(row: Mapping[str, Any]) -> bool:
    """Whether the published method leaves chunks in several pieces of text."""
    return bool(row["chunkers"][SEPARATE]["runs_per_cluster"] > 1)


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Over the documents with at least two sections."""
    judged = [row for row in rows if row["sections"] > 1]
    return {
        name: {key: round(statistics.mean(row["chunkers"][name][key] for row in judged), 4) for key in ("nmi", "purity", "chunks")}
        for name in judged[0]["chunkers"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/documents")
    data = parser.parse_args().data
    encoder, tokenizer = Remembering(SentenceTransformersEncoder()), HuggingFaceTokenizer()
    marked = [(path.stem, truth(path)) for path in sorted((data / "docling/pdf/groundtruth").glob("*.json"))]
    by_truth = compare(marked, encoder, tokenizer)
    by_reader = compare([(Path(name).stem, read_file(data / name)) for name in READER_FILES], encoder, tokenizer)
    judged = [row for row in (*by_truth, *by_reader) if row["sections"] > 1]
    single = [row for row in (*by_truth, *by_reader) if row["sections"] < 2]
    result = {
        "max_tokens": MAX_TOKENS,
        "reached": {
            "nmi_at_least_greedy": {
                name: f"{sum(at_least_greedy(row, name) for row in by_truth)} of {len(by_truth)} truths, "
                f"{sum(at_least_greedy(row, name) for row in by_reader)} of {len(by_reader)} files read"
                for name in ("structure", "layout", "layout, links", "layout, no headings", SEPARATE)
            },
            "truths_of_one_section_where_nmi_is_0_for_all": [row["file"] for row in by_truth if row["sections"] < 2],
            "s2_scatters": {
                "documents of two sections or more": f"{sum(map(scatters, judged))} of {len(judged)}",
                "documents of one section": f"{sum(map(scatters, single))} of {len(single)}",
            },
            "s2_runs_per_cluster": {
                key: {row["file"]: row["chunkers"][SEPARATE]["runs_per_cluster"] for row in rows}
                for key, rows in (("truth", by_truth), ("reader", by_reader))
            },
        },
        "truth_means": means(by_truth),
        "reader_means": means(by_reader),
        "truth": by_truth,
        "reader": by_reader,
    }
    write_result("spatial", result, ("scikit-learn", "pypdfium2"))


if __name__ == "__main__":
    main()

"""The extractive generator: how often it declines, with and without an answer in reach; where the answer stands; milliseconds.

    python bench/abstention.py

Hits are the 5 best by BM25 of pieces of at most 1,000 characters. Answerable: every fourth XQuAD question, every third MTRAG-UN
question, every second question on the product documentation. Not answerable: the same XQuAD questions with their article taken out,
MTRAG-UN's unanswerable turns, the documentation questions put to XQuAD.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Chunk, CitationEvent, Document, Encoder, Hit, Span, UsageEvent
from rag.extractive import ExtractiveGenerator
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.sentences import content_words, sentence_spans

K = 5
MAX_CHARS = 1000
TIMED_QUERIES = 40


@dataclass(frozen=True)
class Asked:
    """A question, its hits, whether they can answer it, and (XQuAD) the answers in words."""

    name: str
    query: str
    hits: list[Hit]
    is_answerable: bool
    answers: tuple[str, ...] = ()


class Remembering:
    """An encoder that encodes a text once: the settings that are compared share the vectors."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}
        self.dim = 384
        self.fingerprint = encoder.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode_documents(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    encode_queries = encode_documents


class Pool:
    """The pieces of one collection and BM25 over them."""

    def __init__(self, folder: str) -> None:
        import bm25s

        self.chunks: list[Chunk] = []
        self.topics: list[str] = []
        for row in lines(DATA / folder / "corpus.jsonl"):
            document = Document(Document.id_of(row["_id"]), row["_id"], row["text"])
            for span in pieces(row["text"]):
                self.chunks.append(Chunk.of(document, span, row.get("title") or ""))
                self.topics.append(row["_id"].split("_")[0])
        self._index = bm25s.BM25()
        self._index.index([list(content_words(chunk.indexed_text)) for chunk in self.chunks], show_progress=False)

    def hits(self, query: str, without: str | None = None) -> list[Hit]:
        words = list(content_words(query))
        scores = self._index.get_scores(words) if words else np.zeros(len(self.chunks))
        order = [i for i in np.argsort(-scores, kind="stable") if self.topics[i] != without][:K]
        return [Hit(self.chunks[i], float(scores[i])) for i in order]


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pieces(text: str) -> Iterator[Span]:
    start, end = 0, 0
    for span in sentence_spans(text):
        if end and span.end - start > MAX_CHARS:
            yield Span(start, end)
            end = 0
        start, end = (start if end else span.start), span.end
    if end:
        yield Span(start, end)


def questions() -> Iterator[Asked]:
    folder = "xquad/derived_beir_en"
    xquad = Pool(folder)
    gold = defaultdict(list)
    for line in (DATA / folder / "qrels/test.tsv").read_text("utf-8").splitlines()[1:]:
        query, document = line.split("\t")[:2]
        gold[query].append(document)
    articles = json.loads((DATA / "xquad/xquad.en.json").read_text("utf-8"))["data"]
    answers = {
        qa["id"]: tuple(a["text"] for a in qa["answers"]) for each in articles for p in each["paragraphs"] for qa in p["qas"]
    }
    for row in lines(DATA / folder / "queries.jsonl")[::4]:
        yield Asked("xquad", row["text"], xquad.hits(row["text"]), True, answers[row["_id"]])
        yield Asked("xquad", row["text"], xquad.hits(row["text"], gold[row["_id"]][0].split("_")[0]), False)
    mtrag = Pool("mtrag_un_reference/derived_beir")
    for row in lines(DATA / "mtrag_un_reference/derived_beir/queries.jsonl")[::3]:
        yield Asked("mtrag_un", row["text"], mtrag.hits(row["text"]), True)
    for row in lines(DATA / "mtrag_un_reference/reference_without_fiqa.jsonl"):
        if "UNANSWERABLE" in row["answerability"]:
            yield Asked("mtrag_un", row["input"][-1]["text"], mtrag.hits(row["input"][-1]["text"]), False)
    folder = "anthropic_cookbook_retrieval/docs/derived_beir"
    docs = Pool(folder)
    for row in lines(DATA / folder / "queries.jsonl")[::2]:
        yield Asked("documentation", row["text"], docs.hits(row["text"]), True)
        yield Asked("documentation", row["text"], xquad.hits(row["text"]), False)


def measured(generator: ExtractiveGenerator, asked: Sequence[Asked]) -> dict[str, Any]:
    declined: dict[str, list[bool]] = defaultdict(list)
    quoted: list[bool] = []
    for each in asked:
        *events, last = generator.generate(each.query, each.hits)
        assert isinstance(last, UsageEvent)
        declined[f"{each.name}, {'answerable' if each.is_answerable else 'not answerable'}"].append(last.abstained)
        if each.answers:
            quotes = [event.citation.quote for event in events if isinstance(event, CitationEvent)]
            quoted.append(any(answer in quote for quote in quotes for answer in each.answers))
    rates = {name: {"declined": round(statistics.mean(found), 3), "questions": len(found)} for name, found in declined.items()}
    return {"declines": rates, "xquad_answer_quoted": round(statistics.mean(quoted), 3)}


def cost(generator: ExtractiveGenerator, asked: Sequence[Asked]) -> dict[str, float]:
    """Medians per question; on a busy machine the processor time says more than the clock."""
    clock, processor = [], []
    for each in asked:
        start, used = time.perf_counter(), time.process_time()
        list(generator.generate(each.query, each.hits))
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return {
        "median_ms": round(statistics.median(clock) * 1000, 1),
        "median_processor_ms": round(statistics.median(processor) * 1000, 1),
    }


def main() -> None:
    asked = list(questions())
    encoder = SentenceTransformersEncoder()
    with_encoder, without = ExtractiveGenerator(Remembering(encoder)), ExtractiveGenerator()
    result = {"all-MiniLM-L6-v2": measured(with_encoder, asked), "words only": measured(without, asked)}
    timed = [each for each in asked if each.is_answerable][:: max(1, sum(each.is_answerable for each in asked) // TIMED_QUERIES)]
    result["all-MiniLM-L6-v2"] |= cost(ExtractiveGenerator(encoder), timed)
    result["words only"] |= cost(without, timed)
    print(json.dumps(result, indent=2))
    write_result("abstention", result)


if __name__ == "__main__":
    main()

"""A cross-encoder trained in minutes on a corpus alone, for bench/rerank.py. Knows chunks and made-up queries, no test question.

Queries are headings of chunks, and sentences cut out of their chunk (the inverse cloze task of Lee et al., ACL 2019), half of
those with half of their words. What a query came from is its answer; three chunks of other documents that BM25 finds for it are not. The
start is the embedded encoder with a new head; the loss is cross-entropy over the four.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rag.core import Chunk
from rag.embedded import model_path
from rag.retrievers.bm25 import BM25Reader
from rag.sentences import sentence_spans

NUM_NEGATIVES = 3
MAX_TOKENS = 128


class Example(NamedTuple):
    """A made-up query and its passages, the right one first."""

    query: str
    passages: tuple[str, ...]


def examples(chunks: Sequence[Chunk], reader: BM25Reader, seed: int) -> list[Example]:
    """One example of each kind a chunk has, shuffled; keys of ``reader`` are places in ``chunks``."""
    drawn = random.Random(seed)
    made: list[tuple[str, str, str]] = []
    for chunk in chunks:
        if heading := chunk.context.strip().splitlines()[-1:]:
            made.append((heading[0].split(" > ")[-1], chunk.text, chunk.doc_id))
        spans = [span for span in sentence_spans(chunk.text) if 5 <= len(span.of(chunk.text).split()) <= 30]
        if len(spans) >= 2:
            span = drawn.choice(spans)
            words = span.of(chunk.text).split()
            if drawn.random() < 0.5:
                words = [words[place] for place in sorted(drawn.sample(range(len(words)), max(3, len(words) // 2)))]
            made.append((" ".join(words), chunk.text[: span.start] + chunk.text[span.end :], chunk.doc_id))
    found = []
    for query, answer, document in drawn.sample(made, len(made)):
        (matches,) = reader.search([query], 20)
        others = [chunks[key].indexed_text for key in matches.keys.tolist() if chunks[key].doc_id != document]
        if len(others) >= NUM_NEGATIVES and query.strip() and answer.strip():
            found.append(Example(query, (answer, *drawn.sample(others[:10], min(NUM_NEGATIVES, len(others[:10]))))))
    return found


def train(made: Sequence[Example], folder: Path, num_steps: int, queries_per_step: int, seed: int) -> dict[str, Any]:
    """Trains on the first examples (each once) and saves a cross-encoder in ``folder``; tells how it went."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    started, used = time.process_time(), time.perf_counter()
    network: Any = AutoModelForSequenceClassification.from_pretrained(str(model_path()), num_labels=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(model_path()), model_max_length=512)
    network.bert.embeddings.requires_grad_(False)
    network.train()
    optimiser = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], lr=1e-4, weight_decay=0.01)
    num_steps = min(num_steps, len(made) // queries_per_step)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 20) * (1 - step / num_steps))
    right: list[float] = []
    losses: list[float] = []
    for step in range(num_steps):
        some = made[step * queries_per_step : (step + 1) * queries_per_step]
        queries = [each.query for each in some for _ in each.passages]
        passages = [passage for each in some for passage in each.passages]
        inputs = tokenizer(queries, passages, truncation="longest_first", max_length=MAX_TOKENS, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(**inputs).logits
        scores = scores.float().view(len(some), 1 + NUM_NEGATIVES)
        loss = torch.nn.functional.cross_entropy(scores, torch.zeros(len(some), dtype=torch.long))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        right += (scores.argmax(1) == 0).float().tolist()
        if step % 20 == 19:
            print(
                f"step {step + 1}: loss {sum(losses[-20:]) / 20:.3f}, right {sum(right[-160:]) / len(right[-160:]):.3f}", flush=True
            )
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    last = right[-len(right) // 5 :]
    return {
        "num_steps": num_steps,
        "queries_per_step": queries_per_step,
        "max_tokens": MAX_TOKENS,
        "right_of_four_in_the_last_fifth": round(sum(last) / len(last), 3),
        "cpu_seconds": round(time.process_time() - started, 1),
        "seconds": round(time.perf_counter() - used, 1),
    }

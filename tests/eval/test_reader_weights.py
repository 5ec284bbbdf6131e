"""The shipped weights tell full attention from plain reuse, and load as a hub model does."""

from __future__ import annotations

from collections import defaultdict

import torch

from rag.eval.reader import weights
from rag.eval.reader.batches import Encoder, answered
from rag.eval.reader.measure import measured, sample
from rag.eval.reader.tasks import KINDS, make
from rag.eval.reader.vocabulary import build

MAX_BYTES = 10 * 2**20
NUM_CHUNKS, NUM_INSTANCES = 4, 40


def _share(hits: dict[tuple[str, str], list[float]], mode: str) -> float:
    values = [value for kind in KINDS for value in hits[mode, kind]]
    return sum(values) / len(values)


def test_the_reader_needs_attention_between_chunks() -> None:
    hits = measured(weights.read(weights.READER), Encoder(build()), NUM_CHUNKS, NUM_INSTANCES)
    assert _share(hits, "full") >= 0.95
    assert _share(hits, "reuse") <= _share(hits, "full") - 0.15


def test_the_twin_reads_over_borders_by_its_labels_and_only_so() -> None:
    """A control: labels that see nothing but themselves cost exactly the questions whose subject stands in the chunk before."""
    network, encoder = weights.read(weights.FOLDER / "reader-block"), Encoder(build())
    hits: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for seed, question in sample(NUM_CHUNKS, NUM_INSTANCES):
        row = encoder.row(make(seed, NUM_CHUNKS), [question])
        owners, groups = torch.tensor(row.owners), torch.tensor(row.groups)
        labels = (owners == -1) & (groups == 0)
        for blind in (False, True):
            batch = encoder.batch([row], [True], policy="bare")
            if blind:
                ours = torch.cumsum((labels[1:] & ~labels[:-1]).long(), 0)  # which label, by row
                which = torch.cat((ours[:1] * 0, ours)) * labels
                batch.mask[0, 0][labels[:, None] & (which[:, None] != which)] = float("-inf")
            with torch.inference_mode():
                said = network.logits(network(batch.ids, batch.positions, batch.mask)[:, :-1]).argmax(-1)
            hits[question.kind, blind].append(not bool(((said != batch.ids[:, 1:]) & batch.targets[:, 1:]).any()))
    share = {key: sum(found) / len(found) for key, found in hits.items()}
    assert share["cross-chunk", False] >= 0.95 and share["cross-chunk", True] <= 0.5
    assert share["direct", True] >= 0.95 and share["two-hop", True] >= 0.9


def test_the_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in weights.FOLDER.rglob("*") if path.is_file()) <= MAX_BYTES


def test_transformers_loads_the_folder_and_writes_the_answer() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(weights.READER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(weights.READER)
    assert len(tokenizer) == model.config.vocab_size and tokenizer.eos_token_id == model.config.eos_token_id
    instance = make(4, NUM_CHUNKS)
    right = 0
    questions = [question for question in instance.questions if question.kind == "direct"][:5]
    for question in questions:
        prefix, sources, ask = Encoder(tokenizer).segments(instance.chunks, question.text)
        ids = torch.tensor([prefix + [token for mark, chunk in sources for token in mark + chunk] + ask])
        with torch.inference_mode():
            written = model.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
        right += tokenizer.decode(written) == answered(question.answer)
    assert right >= len(questions) - 1

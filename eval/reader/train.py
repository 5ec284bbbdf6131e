"""Train the reader with a curriculum from few chunks to many. Knows the loop, no sentences; its block-tuned twin is ``twin``'s.

    python -m rag.eval.reader.train --out RUN --minutes 60              the reader
    python -m rag.eval.reader.train --out RUN2 --start eval/reader/weights/reader --middle 0.5 ...  pronouns in the middle of chunks, too

A run writes ``state.safetensors`` (weights and optimiser moments), ``progress.json`` and ``curve.csv``; started again with the same
``--out`` it goes on. The learning rate is constant, then falls to zero over the last part of ``--minutes``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from rag.eval.reader import weights
from rag.eval.reader.batches import Batch, Encoder, Row
from rag.eval.reader.muon import Muon
from rag.eval.reader.network import Network, Shape
from rag.eval.reader.tasks import KINDS, Instance, Kind, Place, Question, make
from rag.eval.reader.vocabulary import build

FIRST_SEED = 10_000_000  # instances below are for measuring
KIND_SHARES: dict[Kind, float] = {"direct": 0.3, "two-hop": 0.3, "cross-chunk": 0.4}


@dataclass(frozen=True, slots=True)
class Stage:
    """Instances of ``chunks`` (fewest, most) chunks in rows of ``length`` tokens; left when recent exact match is ``enough``."""

    chunks: tuple[int, int]
    facts: tuple[int, int]
    relations: tuple[int, int]
    length: int
    rows: int
    enough: float = 0.9


STAGES = (
    Stage((2, 3), (1, 3), (1, 4), 256, 16, 0.85),
    Stage((2, 6), (2, 4), (3, 8), 416, 12, 0.9),
    Stage((2, 10), (2, 4), (4, 8), 640, 12, 2.0),
)
"""Few relations first: then the relation alone does not give the answer away, and names have to be matched from the start."""


@dataclass(slots=True)
class Progress:
    """Where a run stands; kept in ``progress.json``."""

    step: int = 0
    stage: int = 0
    seconds: float = 0.0
    tokens: int = 0
    next_seed: int = FIRST_SEED
    shape: dict[str, Any] = field(default_factory=dict)


def drawn_questions(instance: Instance, rng: random.Random, shares: Mapping[Kind, float]) -> Iterator[Question]:
    """Every question once, the kinds in ``shares`` while they last."""
    left: dict[Kind, list[Question]] = {kind: [q for q in instance.questions if q.kind == kind] for kind in KINDS}
    for questions in left.values():
        rng.shuffle(questions)
    while kinds := [kind for kind in KINDS if left[kind]]:
        yield left[rng.choices(kinds, [shares[kind] for kind in kinds])[0]].pop()


RECALL = 0.5  # of the room behind a context, filled with sentences of it said again: matching words is learnt from them first


def packed(
    encoder: Encoder,
    instance: Instance,
    length: int,
    seed: int,
    recall: float = RECALL,
    shares: Mapping[Kind, float] = KIND_SHARES,
) -> tuple[Row, list[Question]]:
    """The row of ``instance`` with as many question blocks and (in the share ``recall`` of its room) sentences said again as fit into ``length``."""
    rng = random.Random(seed)
    room = length - len(encoder.row(instance, []).ids)
    recalled: list[str] = []
    sentences = [fact.sentence for fact in instance.facts if not fact.carried]
    rng.shuffle(sentences)
    kept = room - recall * room
    for sentence in sentences:
        if room - len(encoder.encoded(sentence)) < kept:
            break
        room -= len(encoder.encoded(sentence))
        recalled.append(sentence)
    asked: list[Question] = []
    for question in drawn_questions(instance, rng, shares):
        room -= encoder.block_length(question)
        if room < 0:
            break
        asked.append(question)
    return encoder.row(instance, asked, recalled), asked


def drawn_batch(encoder: Encoder, stage: Stage, seed: int, middle: float = 0.0) -> tuple[Batch, list[list[Question]]]:
    """One batch. ``middle``: share with pronouns in the middle."""
    rows, asked = [], []
    for offset in range(stage.rows):
        rng = random.Random(seed + offset)
        num_chunks, place = rng.randint(*stage.chunks), "middle" if rng.random() < middle else "start"
        instance = make(
            seed + offset, num_chunks, facts_per_chunk=stage.facts, num_relations=stage.relations, carried_at=cast("Place", place)
        )
        row, questions = packed(encoder, instance, stage.length, seed + offset)
        rows.append(row)
        asked.append(questions)
    return encoder.batch(rows, [False] * len(rows), stage.length), asked


def loss_and_hits(network: Network, hidden: Tensor, batch: Batch, context_weight: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of answer tokens (plus that of the context, weighted), and whether each block's answer is right.

    Hits are ``[rows, blocks + 1]``: entry (r, g) is 1 unless a token of the answer of block g was not the most likely one.
    """
    following, wanted = batch.ids[:, 1:], batch.targets[:, 1:]
    logits = network.logits(hidden[:, :-1][wanted]).float()
    loss = F.cross_entropy(logits, following[wanted])
    with torch.no_grad():
        wrong = torch.zeros(batch.ids.shape[0], int(batch.groups.max()) + 1, dtype=torch.long)
        where, group = wanted.nonzero()[:, 0], batch.groups[:, 1:][wanted]
        wrong.index_put_((where, group), (logits.argmax(-1) != following[wanted]).long(), accumulate=True)
    if context_weight:
        context = batch.groups[:, 1:] == 0
        loss = loss + context_weight * F.cross_entropy(network.logits(hidden[:, :-1][context]).float(), following[context])
    return loss, wrong == 0


def by_kind(hits: Tensor, asked: Sequence[Sequence[Question]], blocked: Sequence[bool]) -> dict[str, list[bool]]:
    """Hits by kind of question; under the block mask the kind has the word "blocked" after it."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row, questions in enumerate(asked):
        for group, question in enumerate(questions, 1):
            found[question.kind + (" blocked" if blocked[row] else "")].append(bool(hits[row, group]))
    return found


class Run:
    """A network with its optimisers and progress, in a folder."""

    def __init__(self, out: Path, shape: Shape, muon_rate: float, adam_rate: float, start: Path | None) -> None:
        self.out, self.progress = out, Progress(shape=asdict(shape))
        out.mkdir(parents=True, exist_ok=True)
        going_on = (out / "progress.json").exists()
        if going_on:
            self.progress = Progress(**json.loads((out / "progress.json").read_text()))
        elif start is not None and (start / "progress.json").exists():
            before = json.loads((start / "progress.json").read_text())
            self.progress = Progress(shape=before["shape"], next_seed=before["next_seed"])
        elif start is not None:
            self.progress = Progress(shape=asdict(weights.read(start).shape), stage=len(STAGES) - 2)
        torch.manual_seed(0)
        self.network = Network(Shape(**self.progress.shape))
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.network.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon_rate, weight_decay=0.01),
            torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [muon_rate, adam_rate]
        source = out if going_on else start
        if source is not None and (source / "state.safetensors").exists():
            self._load(source / "state.safetensors", moments=going_on)
        elif source is not None:
            self.network.load_state_dict(weights.read(source).state_dict())

    def save(self) -> None:
        """Write weights, moments and progress, each by replacing the file."""
        tensors = {f"weights.{name}": p.detach() for name, p in self.network.named_parameters()}
        for number, optimiser in enumerate(self.optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"moments.{number}.{index}.{key}": value.clone() for key, value in state.items()}
        save_file(tensors, self.out / "state.new")
        (self.out / "state.new").replace(self.out / "state.safetensors")
        (self.out / "progress.new").write_text(json.dumps(asdict(self.progress)))
        (self.out / "progress.new").replace(self.out / "progress.json")

    def _load(self, path: Path, *, moments: bool) -> None:
        tensors = load_file(path)
        self.network.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
        for number, optimiser in enumerate(self.optimisers if moments else []):
            state: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for name, value in tensors.items():
                if name.startswith(f"moments.{number}."):
                    _, _, index, key = name.split(".")
                    state[int(index)][key] = value
            optimiser.load_state_dict({"state": dict(state), "param_groups": optimiser.state_dict()["param_groups"]})

    def set_rates(self, done: float, decay: float) -> None:
        """Rates after the share ``done`` of the time: a short rise, constant, and a fall to zero over the last ``decay`` of it."""
        scale = min(1.0, (self.progress.step + 1) / 50, max(0.0, 1 - done) / decay)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale


def train(run: Run, *, minutes: float, decay: float, context_weight: float, compiled: bool, middle: float = 0.0) -> None:
    """Steps until ``minutes`` of training time (all sittings together) are over."""
    encoder = Encoder(build())
    forward: Any = torch.compile(run.network, dynamic=False) if compiled else run.network
    recent: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=1000))
    progress, clock, losses = run.progress, time.perf_counter(), deque[float](maxlen=50)
    names = ["step", "seconds", "tokens", "stage", "loss", *KINDS]
    while progress.seconds < 60 * minutes:
        stage = STAGES[progress.stage]
        batch, asked = drawn_batch(encoder, stage, progress.next_seed, middle)
        progress.next_seed += stage.rows
        run.set_rates(progress.seconds / (60 * minutes), decay)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = forward(batch.ids, batch.positions, batch.mask)
            loss, hits = loss_and_hits(run.network, hidden, batch, context_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        for kind, found in by_kind(hits, asked, [False] * len(asked)).items():
            recent[kind].extend(found)
        progress.step += 1
        progress.tokens += batch.ids.numel()
        progress.seconds += time.perf_counter() - clock
        clock = time.perf_counter()
        if progress.step % 50 == 0:
            shares = {kind: sum(found) / len(found) for kind, found in recent.items()}
            values: list[object] = [progress.step, round(progress.seconds), progress.tokens, progress.stage]
            values += [round(sum(losses) / len(losses), 4)]
            values += [round(shares[name], 3) if name in shares else "" for name in names[5:]]
            note(run.out / "curve.csv", names, values)
            print(*values, flush=True)
            if min(shares.values()) >= stage.enough:
                progress.stage += 1
                recent.clear()
        if progress.step % 200 == 0:
            run.save()
    run.save()


def note(path: Path, names: Sequence[str], values: Sequence[object]) -> None:
    """One more line of a curve."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, values] if new else [values])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a run, or a weights folder (then in the last stage but one), to start from")
    parser.add_argument("--middle", type=float, default=0.0, help="share of instances with pronouns in the middle of chunks")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--decay", type=float, default=0.3, help="last share of the time over which the rate falls")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.005)
    parser.add_argument("--context-weight", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = Shape(len(build()), given.width, given.layers, given.heads, hidden=given.hidden)
    run = Run(given.out, shape, given.muon_rate, given.adam_rate, given.start)
    train(
        run,
        minutes=given.minutes,
        decay=given.decay,
        context_weight=given.context_weight,
        compiled=not given.eager,
        middle=given.middle,
    )


if __name__ == "__main__":
    main()

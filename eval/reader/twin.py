"""Train the reader's block-tuned twin: chunks encoded alone, answers as if they were not. Knows the loop; what is to be learnt is ``lessons``'.

    python -m rag.eval.reader.twin --out RUN [--start eval/reader/weights/reader] [--minutes 60]

Block-Attention (arXiv 2409.15355) asks every instance under both masks. Here all are asked under the block mask and a share of them in full attention
as well, since the weights come from a network that knows the latter; a pass of the contexts in full attention without gradients shows what the
rows behind a chunk are to be like. A chunk sees nothing but itself (``policy: bare``): what it sees of a prefix would stand at another distance in the
cache than in training. The learning rate falls in a line to zero over ``--minutes``.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rag.eval.reader import weights
from rag.eval.reader.batches import Batch, Encoder, Row
from rag.eval.reader.lessons import Slots, Telling, Word, lessons, likenesses, tellings, unlikeness
from rag.eval.reader.network import Network, rotation
from rag.eval.reader.tasks import KINDS, Kind, Place, Question, make
from rag.eval.reader.train import Run, Stage, by_kind, loss_and_hits, note, packed
from rag.eval.reader.vocabulary import build

SHARES: dict[Kind, float] = {"direct": 0.15, "two-hop": 0.25, "cross-chunk": 0.6}
STAGES = (
    Stage((3, 4), (1, 1), (3, 4), 192, 16, 0.85),
    Stage((2, 6), (1, 3), (3, 8), 320, 8, 0.85),
    Stage((2, 10), (2, 4), (4, 8), 640, 5, 2.0),
)
"""Short chunks first: that labels carry facts over a border is learnt sooner where little else stands between."""
WORDS_WEIGHT, LIKENESS_WEIGHT, HEAD_RATE = 0.5, 1.0, 0.003


@dataclass(frozen=True, slots=True)
class Drawn:
    """One batch: every instance under the block mask, then some in full attention; ``contexts`` are all instances in full, asked for what is told by pronouns."""

    batch: Batch
    contexts: Batch
    asked: list[list[Question]]
    blocked: list[bool]
    words: list[list[Word]]
    told: list[list[Telling]]


def drawn(encoder: Encoder, stage: Stage, seed: int, full: float, middle: float = 0.0) -> Drawn:
    """The batch of ``seed``. ``full``: share of its instances that are asked in full attention, too; ``middle``: share with pronouns in the middle."""
    rows, asked, words = list[Row](), list[list[Question]](), list[list[Word]]()
    contexts, told = list[Row](), list[list[Telling]]()
    for number in range(seed, seed + stage.rows):
        rng = random.Random(number)
        num_chunks, place = rng.randint(*stage.chunks), "middle" if rng.random() < middle else "start"
        instance = make(
            number, num_chunks, facts_per_chunk=stage.facts, num_relations=stage.relations, carried_at=cast("Place", place)
        )
        row, questions = packed(encoder, instance, stage.length, number, recall=0.0, shares=SHARES)
        context, of_row = tellings(encoder, instance, row, number)
        rows.append(row)
        asked.append(questions)
        words.append(lessons(encoder, instance, row))
        contexts.append(context)
        told.append(of_row)
    num_full = round(full * len(rows))
    blocked = [True] * len(rows) + [False] * num_full
    batch = encoder.batch(rows + rows[:num_full], blocked, stage.length, "bare")
    return Drawn(batch, encoder.batch(contexts, [False] * len(rows)), asked + asked[:num_full], blocked, words, told)


def depths(network: Network, batch: Batch) -> list[Tensor]:
    """Hidden states ``[rows, tokens, width]``: the embeddings, then after every layer."""
    cos, sin = rotation(batch.positions, network.shape.head_dim, network.shape.rope_theta)
    states = [network.model.embed_tokens(batch.ids)]
    for layer in network.model.layers:
        states.append(layer(states[-1], cos, sin, batch.mask))
    return states


def losses(network: Network, slots: Slots, of: Drawn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the answers, of the words and of the likenesses; and which answers are right (see ``loss_and_hits``)."""
    states = depths(network, of.batch)
    answers, hits = loss_and_hits(network, network.model.norm(states[-1]), of.batch, 0.0)
    with torch.no_grad():
        whole = depths(network, of.contexts)
        like = likenesses(network, whole, of.contexts, of.told)
    return answers, slots.loss(network, states, of.words), unlikeness(states, whole, like), hits


def train(run: Run, slots: Slots, *, minutes: float, full: float, middle: float = 0.0) -> None:
    """Steps until ``minutes`` of training time (all sittings together) are over."""
    encoder = Encoder(build())
    recent: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=300))
    means: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=25))
    names = ["step", "seconds", "tokens", "stage", "loss", "words", "likeness", *KINDS, *(f"{kind} blocked" for kind in KINDS)]
    progress, clock = run.progress, time.perf_counter()
    while progress.seconds < 60 * minutes:
        stage = STAGES[progress.stage]
        one = drawn(encoder, stage, progress.next_seed, full, middle)
        progress.next_seed += stage.rows
        run.set_rates(progress.seconds / (60 * minutes), 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            answers, words, unlike, hits = losses(run.network, slots, one)
        (answers + WORDS_WEIGHT * words + LIKENESS_WEIGHT * unlike).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for name, value in (("loss", answers), ("words", words), ("likeness", unlike)):
            means[name].append(value.item())
        for kind, found in by_kind(hits, one.asked, one.blocked).items():
            recent[kind].extend(found)
        progress.step += 1
        progress.tokens += one.batch.ids.numel()
        progress.seconds += time.perf_counter() - clock
        clock = time.perf_counter()
        if progress.step % 25 == 0:
            shares = {kind: sum(found) / len(found) for kind, found in recent.items()}
            values: list[object] = [progress.step, round(progress.seconds), progress.tokens, progress.stage]
            values += [round(sum(means[name]) / len(means[name]), 4) for name in names[4:7]]
            values += [round(shares[name], 3) if name in shares else "" for name in names[7:]]
            note(run.out / "curve.csv", names, values)
            print(*values, flush=True)
            if min(shares.values()) >= stage.enough:
                progress.stage += 1
                recent.clear()
        if progress.step % 50 == 0:
            _save(run, slots)
    _save(run, slots)


def _save(run: Run, slots: Slots) -> None:
    run.save()
    save_file({name: tensor.detach().clone() for name, tensor in slots.state_dict().items()}, run.out / "slots.safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=weights.READER, help="a run or a weights folder to start from")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--full", type=float, default=0.25, help="share of instances that are asked in full attention, too")
    parser.add_argument("--middle", type=float, default=0.0, help="share of instances with pronouns in the middle of chunks")
    parser.add_argument("--stage", type=int, default=0, choices=range(len(STAGES)), help="where a new run begins")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    run = Run(given.out, weights.read(weights.READER).shape, given.muon_rate, given.adam_rate, given.start)
    if run.progress.step == 0:
        run.progress.stage = given.stage
    slots = Slots(run.network.shape.width)
    if (given.out / "slots.safetensors").exists():
        slots.load_state_dict(load_file(given.out / "slots.safetensors"))
    run.optimisers.append(torch.optim.AdamW(slots.parameters(), lr=HEAD_RATE, betas=(0.9, 0.98), weight_decay=0.0))
    run.rates.append(HEAD_RATE)
    train(run, slots, minutes=given.minutes, full=given.full, middle=given.middle)


if __name__ == "__main__":
    main()

"""What the block-tuned twin is taught: the rows that are to hold a chunk's facts can see them, and the chunk's own rows cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rag.eval.reader import twin, vocabulary, weights
from rag.eval.reader.batches import Encoder
from rag.eval.reader.lessons import FACT_DEPTH, LIKE_DEPTHS, NAME_DEPTH, Likeness, Slots, lessons, unlikeness
from rag.eval.reader.network import Network, Shape
from rag.eval.reader.tasks import make
from rag.eval.reader.train import Stage

ENCODER = Encoder(vocabulary.build())
SEEDS = range(20)


def small() -> Network:
    torch.manual_seed(0)
    network = Network(Shape(len(ENCODER.tokenizer), width=32, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=8, hidden=48))
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("seed", SEEDS)
def test_every_carried_fact_is_taught_behind_its_chunk(seed: int) -> None:
    instance = make(seed, 2 + seed % 5)
    row = ENCODER.row(instance, instance.questions[:3], [instance.facts[0].sentence])
    words, likenesses = lessons(ENCODER, instance, row)
    held = {(word.at, word.slot): word.id for word in words}
    assert len(held) == len(words), "no row is to hold two tokens in one slot"
    carried = [fact for fact in instance.facts if fact.carried]
    assert carried and {row.ids[like.of] for like in likenesses} == {ENCODER.encoded(f" {fact.value}")[0] for fact in carried}
    for fact in carried:
        value, name = ENCODER.encoded(f" {fact.value}"), ENCODER.encoded(f" {fact.subject}")
        rows = [like for like in likenesses if row.owners[like.of] == fact.chunk + 1 and row.ids[like.of] == value[0]]
        assert rows, f"{fact} is taught nowhere"
        for like in rows:
            assert (held[like.at, "value"], held[like.at, "name"]) == (value[0], name[0])
            assert row.owners[like.at] == -1 and like.at > like.of, "it is a row that sees all chunks"
            last = fact.chunk + 1 == len(instance.chunks)
            assert (row.groups[like.at] in (1, 2, 3)) == last and (row.groups[like.at] == 0) != last
        start = row.owners.index(fact.chunk + 1)
        assert held[start - 1, "next name"] == name[0] and row.owners[start - 1] == -1
    assert {word.depth for word in words} == {NAME_DEPTH, FACT_DEPTH}


def test_alone_a_chunk_cannot_know_whose_facts_it_tells_and_the_rows_behind_it_can() -> None:
    instance = make(3, 4)
    row = ENCODER.row(instance, instance.questions[:2])
    (sees,) = ENCODER.batch([row], [True], policy="bare").mask[:, 0] == 0
    owners = torch.tensor(row.owners)
    _, likenesses = lessons(ENCODER, instance, row)
    for like in likenesses:
        own, before = int(owners[like.of]), int(owners[like.of]) - 1
        assert sees[like.at, like.of] and sees[like.at][owners == before].all()
        assert set(owners[sees[like.of]].tolist()) == {own}


def test_what_is_held_already_costs_nothing() -> None:
    instance = make(3, 4)
    row = ENCODER.row(instance, instance.questions[:2])
    network = small()
    batch = ENCODER.batch([row], [False])
    with torch.no_grad():
        states = twin.depths(network, batch)
    torch.testing.assert_close(network.model.norm(states[-1]), network(batch.ids, batch.positions, batch.mask))
    words, likenesses = lessons(ENCODER, instance, row)
    same = [[Likeness(like.of, like.of) for like in likenesses]]
    assert float(unlikeness(states, states, same)) == pytest.approx(0, abs=1e-5)
    assert 0 < float(unlikeness(states, states, [likenesses])) < 2 * len(LIKE_DEPTHS)
    told = [state.clone() for state in states]
    one_slot = [[word for word in words if word.slot == "value"]]
    for word in one_slot[0]:
        told[word.depth][0, word.at] = network.model.embed_tokens.weight[word.id]
    with torch.no_grad():
        before, after = (float(Slots(32).loss(network, each, one_slot)) for each in (states, told))
    assert after < 0.1 * before


def test_the_command_trains_goes_on_and_writes_a_hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "STAGES", (Stage((3, 3), (1, 1), (3, 3), 192, 2, 2.0),))
    for minutes in ("0.001", "0.1"):
        twin.main(["--out", str(tmp_path / "run"), "--minutes", minutes, "--full", "0.5"])
        progress = json.loads((tmp_path / "run" / "progress.json").read_text())
    assert progress["step"] >= 2 and progress["stage"] == 0
    weights.export(tmp_path / "run", tmp_path / "hub")
    trained, start = weights.read(tmp_path / "hub"), weights.read(weights.READER)
    assert any(not torch.equal(one, other) for one, other in zip(trained.parameters(), start.parameters(), strict=True))


def test_both_masks_stand_in_a_batch_in_their_shares() -> None:
    one = twin.drawn(ENCODER, Stage((3, 3), (1, 1), (3, 3), 192, 4, 2.0), 7, 0.5)
    assert one.blocked == [True] * 4 + [False] * 2 and len(one.asked) == len(one.batch.ids) == 6
    assert torch.equal(one.batch.ids[0], one.batch.ids[4]) and not torch.equal(one.batch.mask[0], one.batch.mask[4])
    assert len(one.words) == len(one.likenesses) == len(one.contexts.ids) == 4
    assert bool((one.contexts.groups <= 0).all())

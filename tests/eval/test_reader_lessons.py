"""What the block-tuned twin is taught: the rows that are to hold a chunk's facts can see them, and the chunk's own rows cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch

from rag.eval.reader import twin, vocabulary, weights
from rag.eval.reader.batches import Encoder
from rag.eval.reader.lessons import (
    FACT_DEPTH,
    LIKE_DEPTHS,
    MAX_TELLINGS,
    NAME_DEPTH,
    Likeness,
    Slots,
    lessons,
    likenesses,
    tellings,
    unlikeness,
)
from rag.eval.reader.network import Network, Shape
from rag.eval.reader.tasks import Place, make
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
    instance = make(seed, 2 + seed % 5, carried_at="middle" if seed % 2 else "start")
    row = ENCODER.row(instance, instance.questions[:3], [instance.facts[0].sentence])
    words = lessons(ENCODER, instance, row)
    told, telling = tellings(ENCODER, instance, row, seed)
    held = {(word.at, word.slot): word.id for word in words}
    assert len(held) == len(words), "no row is to hold two tokens in one slot"
    assert told.ids[: told.groups.count(0)] == row.ids[: row.groups.count(0)]
    carried = [fact for fact in instance.facts if fact.carried]
    assert carried
    taught = 0
    for fact in carried:
        value, name = ENCODER.encoded(f" {fact.value}"), ENCODER.encoded(f" {fact.subject}")
        assert held[row.owners.index(fact.chunk + 1) - 1, "next name"] == name[0]
        last = fact.chunk + 1 == len(instance.chunks)
        for each in telling:
            if told.owners[each.among[0]] != fact.chunk + 1 or told.ids[each.among[0]] not in value:
                continue
            taught += 1
            assert told.ids[each.by + 1] == each.id == told.ids[each.among[0]], "it is said where it stands in the answer"
            assert set(told.owners[each.among[0] : each.among[1]]) == {fact.chunk + 1}
            assert told.owners[each.among[1]] != fact.chunk + 1
            for at in each.at:
                assert row.owners[at] == -1 and at > each.among[0], "it is a row that sees all chunks"
                assert row.groups[at] == (1 if last else 0)
                if each.id == value[0]:
                    assert (held[at, "value"], held[at, "name"]) == (value[0], name[0])
    assert taught == len(telling)
    assert len({each.by for each in telling}) == len(telling) and len(telling) >= min(MAX_TELLINGS, len(carried))
    assert {word.depth for word in words} == {NAME_DEPTH, FACT_DEPTH}


def test_alone_a_chunk_cannot_know_whose_facts_it_tells_and_the_rows_behind_it_can() -> None:
    instance = make(3, 4)
    row = ENCODER.row(instance, instance.questions[:2])
    (sees,) = ENCODER.batch([row], [True], policy="bare").mask[:, 0] == 0
    owners = torch.tensor(row.owners)
    _, telling = tellings(ENCODER, instance, row, 0)
    assert telling
    for each in telling:
        own = int(owners[each.among[0]])
        for at in each.at:
            assert sees[at, each.among[0]] and sees[at][owners == own - 1].all()
        assert set(owners[sees[each.among[0]]].tolist()) == {own}


def test_a_telling_is_like_the_row_that_transformers_sees_it_read_from() -> None:
    from transformers import AutoModelForCausalLM

    reader = weights.read(weights.READER)
    model = AutoModelForCausalLM.from_pretrained(weights.READER, dtype=torch.float32, attn_implementation="eager").eval()
    num_found = 0
    for seed in range(30):
        instance = make(seed, 3)
        row = ENCODER.row(instance, instance.questions[:1])
        told, telling = tellings(ENCODER, instance, row, seed)
        first = [each for each in telling if told.groups[each.by] == 1]  # the first block alone is a plain causal prompt
        end = max(at for at, group in enumerate(told.groups) if group <= 1) + 1
        batch = ENCODER.batch([told], [False])
        with torch.inference_mode():
            states = twin.depths(reader, batch)
            ((*found,),) = likenesses(reader, states, batch, [first])
            seen = model(torch.tensor([told.ids[:end]]), output_attentions=True)
        expected = list[Likeness]()
        for each in first:
            if int(seen.logits[0, each.by].argmax()) == each.id:
                look = sum(seen.attentions[depth][0, :, each.by].sum(0) for depth in LIKE_DEPTHS)
                of = each.among[0] + int(look[slice(*each.among)].argmax())
                expected += [Likeness(at, of) for at in each.at]
        assert found == expected
        num_found += len(found)
    assert num_found > 30, "the reader says most of it"


def test_what_is_not_said_in_full_attention_teaches_nothing() -> None:
    instance = make(3, 4)
    told, telling = tellings(ENCODER, instance, ENCODER.row(instance, instance.questions[:2]), 0)
    network, batch = small(), ENCODER.batch([told], [False])
    with torch.no_grad():
        states = twin.depths(network, batch)
        said = network.logits(network.model.norm(states[-1]))[0].argmax(-1).tolist()
    assert not any(said[each.by] == each.id for each in telling), "random weights say something else"
    assert likenesses(network, states, batch, [telling]) == [[]]
    assert float(unlikeness(states, states, [[]])) == 0


def test_what_is_held_already_costs_nothing() -> None:
    instance = make(3, 4)
    row = ENCODER.row(instance, instance.questions[:2])
    network = small()
    batch = ENCODER.batch([row], [False])
    with torch.no_grad():
        states = twin.depths(network, batch)
    torch.testing.assert_close(network.model.norm(states[-1]), network(batch.ids, batch.positions, batch.mask))
    words = lessons(ENCODER, instance, row)
    like = [Likeness(at, each.among[0]) for each in tellings(ENCODER, instance, row, 0)[1] for at in each.at]
    same = [[Likeness(each.of, each.of) for each in like]]
    assert float(unlikeness(states, states, same)) == pytest.approx(0, abs=1e-5)
    assert 0 < float(unlikeness(states, states, [like])) < 2 * len(LIKE_DEPTHS)
    told = [state.clone() for state in states]
    one_slot = [[word for word in words if word.slot == "value"]]
    for word in one_slot[0]:
        told[word.depth][0, word.at] = network.model.embed_tokens.weight[word.id]
    with torch.no_grad():
        before, after = (float(Slots(32).loss(network, each, one_slot)) for each in (states, told))
    assert after < 0.1 * before


def test_pronouns_stand_in_the_middle_in_their_share() -> None:
    stage = Stage((3, 3), (1, 1), (3, 3), 256, 4, 2.0)
    begun, within = (twin.drawn(ENCODER, stage, 7, 0.0, middle).batch.ids for middle in (0.0, 1.0))
    for rows, place in ((begun, "start"), (within, "middle")):
        instance = make(7, 3, facts_per_chunk=stage.facts, num_relations=stage.relations, carried_at=cast("Place", place))
        context = ENCODER.row(instance, []).ids
        assert rows[0, : len(context)].tolist() == context


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
    assert len(one.words) == len(one.told) == len(one.contexts.ids) == 4
    for number, of_row in enumerate(one.told):
        assert of_row and all(one.contexts.groups[number, each.by] > 0 for each in of_row)

"""How tokens are drawn, and that neither the batch nor the order changes a text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from rag.core import Completion
from rag.lm import TransformersLM
from rag.lm_sampling import Sampling
from tests.tiny_models import save_llama

PROMPTS = ["The tower is", "Ducks", "Where is the answer? It is in the first", "The tower is", "The river"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def warm(folder: Path, **options: Any) -> TransformersLM:
    return TransformersLM(str(folder), device="cpu", **{"temperature": 1.5, **options})


def test_temperature_zero_is_the_likeliest_token() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    assert Sampling(0.0, 0.3, 9).choosers([[1], [2], [3]])(logits) == logits.argmax(-1).tolist()


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    choose = Sampling(1.0).choosers([[7]])
    counts = Counter(choose(logits)[0] for _ in range(4000))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    cold = Sampling(0.5).choosers([[7]])
    assert Counter(cold(logits)[0] for _ in range(2000))[0] / 2000 == pytest.approx(0.25 / 0.365, abs=0.04)


def test_top_p_keeps_the_fewest_tokens_that_hold_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        choose = Sampling(1.0, top_p).choosers([[1]])
        assert {choose(logits)[0] for _ in range(300)} == kept


def test_one_prompt_draws_what_it_draws_among_others() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling, ids = Sampling(1.3, 0.9, 3), [[1], [2, 3], [4]]
    together, alone = sampling.choosers(ids), [sampling.chooser(each) for each in ids]
    for _ in range(20):
        assert together(logits) == [choose(row) for choose, row in zip(alone, logits, strict=True)]


def test_a_text_is_the_same_in_any_batch_and_order(folder: Path) -> None:
    lm = warm(folder)
    together = lm.complete(PROMPTS, max_tokens=12)
    assert lm.complete(PROMPTS[::-1], max_tokens=12) == together[::-1]
    assert [lm.complete([prompt], max_tokens=12)[0] for prompt in PROMPTS] == together
    assert warm(folder, batch_size=2).complete(PROMPTS, max_tokens=12) == together
    *pieces, last = lm.stream(PROMPTS[2], max_tokens=12)
    assert isinstance(last, Completion) and last == together[2] and "".join(map(str, pieces)) == last.text


def test_seeds_and_prompts_draw_differently(folder: Path) -> None:
    texts = {warm(folder, seed=seed).complete(["The tower is"], max_tokens=12)[0].text for seed in range(4)}
    assert len(texts) == 4
    seeds = {Sampling(1.0, 1.0, seed)._seed_of(ids) for seed in range(3) for ids in ([1], [2], [1, 2], [12])}
    assert len(seeds) == 12


def test_the_fingerprint_follows_how_tokens_are_drawn(folder: Path) -> None:
    plain = TransformersLM(str(folder))
    assert plain.fingerprint == TransformersLM(str(folder), seed=7, top_p=0.5).fingerprint
    kinds = [warm(folder), warm(folder, seed=1), warm(folder, top_p=0.5), warm(folder, temperature=0.1), plain]
    assert len({lm.fingerprint for lm in kinds}) == 5


def test_scores_know_no_temperature(folder: Path) -> None:
    assert warm(folder).score(PROMPTS[:2], ("yes", "no")) == TransformersLM(str(folder), device="cpu").score(
        PROMPTS[:2], ("yes", "no")
    )


@pytest.mark.parametrize("options", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TransformersLM("x", **options)  # type: ignore[arg-type]

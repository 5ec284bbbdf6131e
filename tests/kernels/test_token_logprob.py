from __future__ import annotations

import pytest
import torch

from rag.kernels import token_logprob as module
from rag.kernels.token_logprob import logprob_of_logits, token_logprob, token_logprob_reference


@pytest.mark.parametrize(
    ("num_rows", "num_words", "dim", "dtype"),
    [
        (5, 300, 24, torch.float32),
        (1, 7, 3, torch.float32),
        (0, 7, 3, torch.float32),
        (33, 1000, 64, torch.bfloat16),
        (70, 333, 50, torch.float32),
        (9, 131, 33, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_log_softmax_at_the_target(
    num_rows: int, num_words: int, dim: int, dtype: torch.dtype, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VOCABULARY_BLOCK", 128)  # several blocks, and a last one that is not full
    made = torch.Generator().manual_seed(num_words)
    hidden, weight = (torch.randn(rows, dim, generator=made).to(dtype) for rows in (num_rows, num_words))
    targets = torch.randint(0, num_words, (num_rows,), generator=made)
    bias = torch.randn(num_words, generator=made).to(dtype) if biased else None
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    expected = logits.log_softmax(1).gather(1, targets[:, None])[:, 0].float()
    for compute in (token_logprob, token_logprob_reference):
        torch.testing.assert_close(compute(hidden, weight, targets, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most_dim", [0, 2048], ids=["torch", "vectors"])
def test_rows_with_several_targets_or_none(dtype: torch.dtype, most_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DIM", most_dim)
    made = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(6, 40, generator=made).to(dtype), torch.randn(90, 40, generator=made).to(dtype)
    rows, targets = torch.tensor([0, 0, 2, 5, 5, 5]), torch.tensor([3, 89, 0, 7, 7, 8])
    found = token_logprob(hidden, weight, targets, rows=rows)
    logits = hidden.double() @ weight.double().T
    torch.testing.assert_close(found, logits.log_softmax(1)[rows, targets].float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logprob_of_logits(logits.float(), targets, rows=rows), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        logprob_of_logits(logits.float(), targets), token_logprob(hidden, weight, targets), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"rows are torch.int32 \(6,\): int64"):
        token_logprob(hidden, weight, targets, rows=rows.int())


def test_large_logits_do_not_overflow() -> None:
    hidden, weight = torch.tensor([[100.0, 0.0]]), torch.tensor([[10.0, 0.0], [-10.0, 0.0], [9.99, 0.0]])
    found = token_logprob(hidden, weight, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([-0.3133]), atol=1e-4, rtol=0)
    assert token_logprob(hidden, weight, torch.tensor([1])) == pytest.approx(-2000.3133)


@pytest.mark.parametrize(
    ("hidden", "weight", "targets", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(5, 4), torch.tensor([0, 1]), None, r"\(V, D\) of one type"),
        (torch.zeros(2, 3), torch.zeros(5, 3, dtype=torch.bfloat16), torch.tensor([0, 1]), None, "of one type"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0]), None, "one for each of 2 rows"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 5]), None, "from 0 to 5; there are 5 words"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([-1, 4]), None, "from -1 to 4"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 1]), torch.zeros(4), "for 5 words"),
    ],
)
def test_what_does_not_fit_is_named(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_logprob(hidden, weight, targets, bias)

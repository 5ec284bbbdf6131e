from __future__ import annotations

import torch

from rag.kernels.selective_attention import merge_states, selective_attention


def test_all_positions_are_causal_attention() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(8, 37, 16), torch.randn(2, 50, 16), torch.randn(2, 50, 16)
    keys[:, 37:], values[:, 37:] = float("nan"), float("nan")
    out = selective_attention(queries, keys, values, torch.arange(37), num_keys=37, scale=0.25)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries[None], keys[None, :, :37], values[None, :, :37], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1))


def test_attention_over_two_sets_of_keys_is_attention_over_both() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(4, 5, 16), torch.randn(4, 30, 16), torch.randn(4, 30, 16)
    last = torch.full((5,), 29)
    whole = selective_attention(queries, keys, values, last, num_keys=30, scale=0.25, return_lse=True)
    first = selective_attention(queries, keys, values, last, num_keys=12, scale=0.25, return_lse=True)
    second = selective_attention(queries, keys[:, 12:], values[:, 12:], last - 12, num_keys=18, scale=0.25, return_lse=True)
    nothing = selective_attention(queries, keys, values, torch.full((5,), -1), num_keys=30, scale=0.25, return_lse=True)
    merged = merge_states([first[0], nothing[0], second[0]], [first[1], nothing[1], second[1]])
    torch.testing.assert_close(merged, whole)
    assert nothing[0].eq(0).all() and nothing[1].eq(float("-inf")).all()

from __future__ import annotations

from typing import Any

import pytest
import torch

from rag.kernels.assemble import LayerKV, assemble, assemble_layers, assemble_reference
from rag.kernels.assemble_cpu import _passes_caches
from rag.kernels.choose import choose
from rag.kernels.deviation import kv_deviation, kv_deviation_reference
from rag.kernels.quantise import dequantise_kv, quantise_kv
from rag.kernels.rotate import rotate, rotate_reference
from tests.kernels.pieces import pieces_of, table

KINDS = ["plain", "int8", "int4"]


@pytest.mark.parametrize("many_bytes", [0, 1 << 40], ids=["past-caches", "into-caches"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("style", "key_dim", "value_dim", "pairs"),
    [
        ("half", 16, 16, 8),
        ("half", 80, 80, 20),
        ("interleaved", 64, 48, 32),
        ("interleaved", 96, 96, 8),
        ("none", 128, 128, 0),
        ("half", 64, 64, 32),
        ("half", 96, 32, 16),
        ("half", 128, 64, 48),
        ("half", 48, 32, 16),
    ],
)
def test_assembly_is_bit_for_bit_that_of_the_reference(
    style: Any,
    key_dim: int,
    value_dim: int,
    pairs: int,
    kind: str,
    dtype: torch.dtype,
    many_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rag.kernels.assemble_cpu.MANY_BYTES", many_bytes)
    pieces = pieces_of(kind, [5, 0, 33, 1], key_dim, value_dim, dtype)
    cos, sin = table(60, pairs)
    found = torch.full((3, 2, 64, key_dim), float("nan")).to(dtype), torch.full((3, 2, 64, value_dim), float("nan")).to(dtype)
    expected = found[0].clone(), found[1].clone()
    assemble_layers(pieces, [2, 7, 8, 50], cos, sin, style, *found)
    assemble_reference(pieces, [2, 7, 8, 50], cos, sin, style, *expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
        assert one[:, :, [0, 1, 7, 41, 49, 51, 63]].isnan().all() and not one[:, :, 8:41].isnan().any()


def test_only_aligned_buffers_are_written_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kernels.assemble_cpu.MANY_BYTES", 0)
    pieces = pieces_of("plain", [5, 9], 64, 64, torch.float32)
    for places, aligned in ((slice(64), True), (slice(1, 65), False), (slice(16, 80), True)):
        keys, values = (torch.zeros(3, 2, 20, 80)[..., places] for _ in range(2))
        expected = torch.zeros(3, 2, 20, 64), torch.zeros(3, 2, 20, 64)
        assert _passes_caches(pieces, keys, values) is aligned
        assemble_layers(pieces, [0, 8], *table(20, 32), "half", keys, values)
        assemble_reference(pieces, [0, 8], *table(20, 32), "half", *expected)
        assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_land_where_they_belong(kind: str) -> None:
    pieces = pieces_of(kind, [5, 7], 16, 16, torch.float32)
    keys, values = torch.zeros(2, 20, 16), torch.zeros(2, 20, 16)
    angles = torch.rand(20, 8)
    assemble([piece[1] for piece in pieces], [1, 8], angles.cos(), angles.sin(), "half", keys, values)
    plain_keys, plain_values = dequantise_kv(pieces[1][1])
    turned = torch.polar(torch.ones(7, 8), angles[8:15]) * torch.complex(plain_keys[..., :8], plain_keys[..., 8:])
    torch.testing.assert_close(keys[:, 8:15], torch.cat([turned.real, turned.imag], -1))
    torch.testing.assert_close(values[:, 8:15], plain_values)


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ([0, 4], "overlap at row 4"),
        ([0, 18], "rows 18 to 23 of 20"),
        ([0], "2 pieces, but 1"),
        ([0, 14], "has 17 rows, 19 are needed"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(starts: list[int], words: str) -> None:
    pieces = pieces_of("int8", [5, 5], 16, 16, torch.float32)
    with pytest.raises(ValueError, match=words):
        assemble_layers(pieces, starts, *table(17, 8), "half", torch.zeros(3, 2, 20, 16), torch.zeros(3, 2, 20, 16))


def test_scales_belong_to_codes() -> None:
    piece = pieces_of("int8", [5], 16, 16, torch.float32)[0][0]
    other: Any = "x"
    for wrong in (
        piece._replace(key_scales=None),
        piece._replace(kind="plain"),
        piece._replace(kind="int4"),
        piece._replace(kind=other),
    ):
        with pytest.raises(ValueError, match="piece 0"):
            assemble([wrong], [0], *table(17, 8), "half", torch.zeros(2, 20, 16), torch.zeros(2, 20, 16))


@pytest.mark.parametrize(("kind", "steps"), [("int8", 127), ("int4", 7)])
def test_codes_are_within_half_a_step(kind: Any, steps: int) -> None:
    keys, values = torch.randn(2, 3, 9, 10), torch.randn(2, 3, 9, 6)
    keys[0, 0, :, 4] = 0
    held = quantise_kv(keys, values, kind)
    back_keys, back_values = dequantise_kv(held)
    assert ((back_keys - keys).abs() <= keys.abs().amax(2, keepdim=True) / steps * 0.5001).all()
    assert ((back_values - values).abs() <= values.abs().amax(3, keepdim=True) / steps * 0.5001).all()
    assert held.keys.shape[-1] == 10 // (2 if kind == "int4" else 1) and back_keys[0, 0, :, 4].eq(0).all()
    empty = quantise_kv(keys[:, :, :0], values[:, :, :0], kind)
    assert dequantise_kv(empty)[0].shape == (2, 3, 0, 10)
    if kind == "int4":
        assert held.keys[0, 0, 0, 1] & 15 == ((keys[0, 0, 0, 1] / keys[0, 0, :, 1].abs().max() * 7).round() + 8)
        with pytest.raises(ValueError, match="even head dimensions"):
            quantise_kv(keys[..., :9], values, kind)
    with pytest.raises(ValueError, match="int8, int4"):
        quantise_kv(keys, values, "int2")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("part", ["k", "v", "kv"])
@pytest.mark.parametrize("tokens", [0, 1, 257, 600])
def test_deviation_is_that_of_the_reference(part: Any, tokens: int, dtype: torch.dtype) -> None:
    new_keys, new_values, old_keys, old_values = torch.randn(4, 2, tokens, 16).to(dtype)
    four = {"new_keys": new_keys, "new_values": new_values, "old_keys": old_keys, "old_values": old_values}
    found = kv_deviation(**four, part=part)
    torch.testing.assert_close(found, kv_deviation_reference(**four, part=part))
    if part == "kv":
        torch.testing.assert_close(found, kv_deviation(**four, part="k") + kv_deviation(**four, part="v"))
    with pytest.raises(ValueError, match="k, v, kv"):
        kv_deviation(**four, part="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rotation_keeps_distances_and_the_rest(style: Any) -> None:
    x = torch.randn(3, 9, 20)
    cos, sin = table(9, 8)
    turned = rotate(x, cos, sin, style)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[..., 16:], x[..., 16:])
    torch.testing.assert_close(rotate(turned, cos, -sin, style), x)
    assert rotate(x.bfloat16(), cos, sin, style).dtype == torch.bfloat16
    places = (0, 8) if style == "half" else (0, 1)
    assert turned[0, 0, places[1]] == x[0, 0, places[1]] * cos[0, 0] + x[0, 0, places[0]] * sin[0, 0]
    torch.testing.assert_close(rotate_reference(x.double(), cos, sin, style).float(), turned)
    with pytest.raises(ValueError, match="half, interleaved, none"):
        rotate(x, cos, sin, "other")  # type: ignore[arg-type]


def test_the_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_KERNELS", raising=False)
    assert choose(torch.zeros(1)).name == "cpu"
    assert choose(torch.zeros(1, dtype=torch.float16)) == ("reference", "no kernel for float16 on cpu")
    with pytest.raises(ValueError, match="different devices"):
        choose(torch.zeros(1), torch.zeros(1, device="meta"))
    monkeypatch.setenv("RAG_KERNELS", "reference")
    assert choose(torch.zeros(1)) == ("reference", "RAG_KERNELS=reference")
    monkeypatch.setenv("RAG_KERNELS", "fast")
    with pytest.raises(ValueError, match="reference, cpu, triton"):
        choose(torch.zeros(1))


@pytest.mark.parametrize("style", ["half", "interleaved", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "tokens", "dim", "pairs"), [(3, 5, 16, 8), (2, 1, 80, 20), (4, 700, 64, 32), (1, 0, 16, 4), (2, 9, 96, 16)]
)
def test_the_compiled_rotation_is_the_reference_bit_for_bit(
    style: Any, dtype: torch.dtype, heads: int, tokens: int, dim: int, pairs: int
) -> None:
    x = torch.randn(tokens, heads, dim + 3).to(dtype)[..., :dim].transpose(0, 1)
    cos, sin = table(tokens, pairs)
    assert torch.equal(rotate(x, cos, sin, style), rotate_reference(x, cos, sin, style))
    assert torch.equal(rotate(x[None], cos, sin, style)[0], rotate_reference(x, cos, sin, style))


@pytest.mark.parametrize("dim", [20, 64])
def test_what_is_no_number_or_has_no_end_is_moved_as_it_is(dim: int) -> None:
    x = torch.randn(2, 7, dim).bfloat16()
    x[0, 0, 0], x[0, 1, 1], x[1, 2, dim - 1] = float("nan"), float("inf"), float("-inf")
    x[1, 3] = torch.tensor(3.3895e38)  # the largest of bfloat16: a turn must not wrap
    found, expected = (turn(x, *table(7, dim // 2), "half") for turn in (rotate, rotate_reference))
    assert torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())
    keys, values = torch.zeros(2, 2, 2, 9, dim).bfloat16()[:, 0]
    assemble([LayerKV(x, x)], [1], *table(9, 0), "none", keys, values)
    for written in (keys, values):
        assert torch.equal(written[:, 1:8].isnan(), x.isnan()) and torch.equal(written[:, 1:8].nan_to_num(), x.nan_to_num())

"""Attention in vectors on a processor: its functions, its ways, every fault planted into it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch

from rag.kernels.choose import Way, decoding_way, processor_has, processor_way
from rag.kernels.exponential import powers_16, tangents_16
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from rag.kernels.varlen_attention_cpu import LONG_TOKENS
from tests.kernels.cases import ATTENTION, VARLEN, Attention, Varlen, limit, problem, rel, varlen_problem
from tests.kernels.planted import Planted, must_be_seen

ROOT = Path(__file__).parents[2]
FAULTS = [
    Planted("attention_tiles_cpu", "final > high[row] + 1", "final > high[last_row] + 1", "plain"),
    Planted("attention_tiles_cpu", "begin < low[last_row] or ", "", "many-tiles-window"),
    Planted("attention_tiles_cpu", "begin -= (begin - first) % 2", "begin -= 0", "many-tiles-window"),
    Planted("attention_tiles_cpu", "[:] = -np.inf", "[:] = 9", "bfloat16-dim-96"),
    Planted("attention_tiles_cpu", "cap(scores, count * vectors, limit)", "cap(scores, count, limit)", "odd-dims"),
    Planted("attention_tiles_cpu", "(peak[row] + np.log2(whole))", "(peak[row] - np.log2(whole))", "plain"),
    Planted("softmax_vectors", "icmp_signed(\"<=\", key, bounds[1][v])", "icmp_signed(\"<\", key, bounds[1][v])", "plain"),
    Planted("attention_vectors", "[before, fades[v], total]", "[before, total, total]", "many-tiles"),
    Planted("softmax_vectors", "builder.lshr(lower, splat(I32, LANES, 16))", "builder.lshr(upper, splat(I32, LANES, 16))", "bfloat16-dim-96"),
]  # fmt: skip


@numba.njit
def _apply(numbers: Any, powers: Any, tangents: Any) -> None:  # pragma: no cover - compiled
    for place in range(0, len(numbers), 16):
        powers_16(numbers.ctypes.data + 4 * place, powers.ctypes.data + 4 * place)
        tangents_16(numbers.ctypes.data + 4 * place, tangents.ctypes.data + 4 * place)


def test_exponentials_and_tangents_are_those_of_math() -> None:
    made = np.random.default_rng(0)
    numbers = np.concatenate([made.uniform(-126, 20, 16_000), made.uniform(-3, 3, 16_000), made.normal(0, 1e-3, 16_000)])
    numbers = numbers.astype(np.float32)
    powers, tangents = np.empty_like(numbers), np.empty_like(numbers)
    _apply(numbers, powers, tangents)
    expected = np.array([[2.0 ** float(number), math.tanh(float(number))] for number in numbers]).T
    assert np.abs(powers / expected[0] - 1).max() < 2e-7 and np.abs(tangents / expected[1] - 1).max() < 4e-7


def test_the_ends_of_exponentials_and_tangents() -> None:
    numbers = np.array([-np.inf, np.nan, 0, -1e30, -127, -126, 1, 2, 127, np.inf, -0.0, -30, 30, 5, -5, 0], np.float32)
    powers, tangents = np.empty_like(numbers), np.empty_like(numbers)
    _apply(numbers, powers, tangents)
    assert powers[[0, 3, 4]].tolist() == [0, 0, 0] and powers[[2, 5, 6, 7, 8]].tolist() == [1, 2.0**-126, 2, 4, 2.0**127]
    assert np.isnan(powers[1]) and np.isnan(tangents[1])
    assert tangents[[0, 2, 9, 11, 12]].tolist() == [-1, 0, 1, -1, 1]


@pytest.mark.parametrize("way", ["vectors", "widened", "torch"])
@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_every_way_is_the_reference(case: Attention, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for matrix registers, which ``test_attention_matrix`` looks at."""
    monkeypatch.setattr("rag.kernels.choose.multiplies_bfloat16_tiles", lambda: False)
    usual = processor_way(case.dtype, case.key_dim).name
    if way != "torch" and usual == "torch":
        pytest.skip("no AVX2 here")
    if (case.dtype == torch.float32 and way == "widened") or (way == "vectors" and usual == "widened"):
        pytest.skip("not a way of this type here")
    monkeypatch.setattr("rag.kernels.attention_cpu.processor_way", lambda dtype, dim: Way(way, "test"))
    monkeypatch.setattr(
        "rag.kernels.attention_cpu.decoding_way", lambda dtype: Way("torch" if way == "torch" else "vectors", "test")
    )
    _check(case)


@pytest.mark.parametrize("case", VARLEN, ids=lambda case: case.name)
def test_texts_go_through_torch_where_there_are_no_vectors(case: Varlen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kernels.varlen_attention_cpu.processor_way", lambda dtype, dim: Way("torch", "test"))
    queries, keys, values, starts, more = varlen_problem(case)
    found = varlen_attention(queries, keys, values, starts, **more)
    expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **more)
    assert rel(found, expected) < limit(case.dtype)


def test_the_tiles_of_a_processor_without_wide_registers(tmp_path: Path) -> None:
    if not (processor_has("avx2") and processor_has("fma")):
        pytest.skip("no AVX2 here")
    told = {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi2,+f16c,+fma,+popcnt,+sse4.2",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.narrow_registers"],
        cwd=ROOT,
        env={**os.environ, **told, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "AVX2" in done.stdout and "without products of bfloat16" in done.stdout


@pytest.mark.parametrize(
    ("told", "feature", "expected"),
    [
        ({"NUMBA_CPU_FEATURES": "+avx2,-avx512f"}, "avx2", True),
        ({"NUMBA_CPU_FEATURES": "+avx2,-avx512f"}, "avx512f", False),
        ({"NUMBA_CPU_NAME": "generic"}, "avx2", False),
    ],
)
def test_what_numba_is_told_to_compile_for_counts(
    told: dict[str, str], feature: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert processor_has.__wrapped__(feature) is expected


def test_a_text_gives_the_same_whatever_stands_beside_it() -> None:
    made = torch.Generator().manual_seed(3)
    lengths = [LONG_TOKENS + 40, 7, LONG_TOKENS, LONG_TOKENS - 1, 7, 300]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = torch.randn(3, 4, int(starts[-1]), 32, generator=made).to(dtype)
        together = varlen_attention(q, k, v, starts, longest=max(lengths), scale=0.2)
        for number, length in enumerate(lengths):
            own = slice(int(starts[number]), int(starts[number + 1]))
            alone = varlen_attention(q[:, own], k[:, own], v[:, own], torch.tensor([0, length]), longest=length, scale=0.2)
            assert torch.equal(together[own], alone)


def _check(case: Attention) -> None:
    queries, keys, values, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks, "scale": 0.3}
    out, lse = selective_attention(queries, keys, values, positions, return_lse=True, **more)
    expected, expected_lse = selective_attention_reference(queries.double(), keys.double(), values.double(), positions, **more)
    assert rel(out, expected) < limit(case.dtype)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.right[:30])
def test_a_planted_fault_is_seen(fault: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kernels.choose.multiplies_bfloat16_tiles", lambda: False)
    (case,) = (case for case in ATTENTION if case.name == fault.case)
    if processor_way(case.dtype, case.key_dim).name != "vectors":
        pytest.skip("rows do not go in vectors here")
    users = ["attention_tiles_cpu"] if fault.module != "attention_tiles_cpu" else []
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, tiles of so few rows hold one token each, and there is no edge inside a tile to get wrong
    try:
        must_be_seen(fault, lambda: _check(case), users)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_less_exact_than_torch_s_attention(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in vectors, wherever they can be computed; where torch's own products go first, the parts of a row are rounded once more."""
    monkeypatch.setattr("rag.kernels.choose.multiplies_bfloat16_tiles", lambda: False)
    made = torch.Generator().manual_seed(2)
    queries = torch.randn(8, 200, 64, generator=made).to(dtype)
    keys, values = torch.randn(2, 2, 900, 64, generator=made).to(dtype)
    positions = torch.randperm(900, generator=made)[:200].sort().values
    seen = torch.arange(900) <= positions[:, None]

    def torchs(*tensors: torch.Tensor) -> torch.Tensor:
        q, k, v = (tensor[None] for tensor in tensors)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)

    expected = torchs(queries.double(), keys.double(), values.double())
    ours = selective_attention(queries, keys, values, positions, num_keys=900, scale=0.125)
    assert rel(ours, expected) < 1.05 * rel(torchs(queries, keys, values), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_share_the_rows_and_change_nothing(dtype: torch.dtype) -> None:
    queries, keys, values, positions, _ = problem(
        Attention("threads", heads=8, num_keys=700, num_rows=400, key_dim=64, value_dim=64, dtype=dtype)
    )
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(selective_attention(queries, keys, values, positions, num_keys=700, scale=0.3, return_lse=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("features", "dtype", "dim", "name"),
    [
        ("", torch.float32, 64, "torch"),
        ("avx2", torch.float32, 64, "torch"),
        ("avx2 fma", torch.float32, 64, "vectors"),
        ("avx2 fma", torch.bfloat16, 64, "widened"),
        ("avx512f", torch.float32, 33, "vectors"),
        ("avx512f", torch.bfloat16, 64, "widened"),
        ("avx512f avx512bf16", torch.bfloat16, 64, "vectors"),
        ("avx512f avx512bf16", torch.bfloat16, 33, "widened"),
        ("avx512f avx512bf16 amx-bf16", torch.bfloat16, 64, "matrix"),
        ("avx512f avx512bf16 amx-bf16", torch.bfloat16, 80, "torch"),
        ("avx512f avx512bf16 amx", torch.bfloat16, 64, "torch"),
        ("avx512f avx512bf16 amx", torch.float32, 64, "vectors"),
    ],
)
def test_the_way_follows_the_processor(
    features: str, dtype: torch.dtype, dim: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.kernels.choose.processor_has", lambda feature: feature in features.split())
    monkeypatch.setattr("rag.kernels.choose.multiplies_bfloat16_tiles", lambda: "amx" in features)
    way = processor_way(dtype, dim)
    assert way.name == name and ("processor" in way.why or "pairs" in way.why)


@pytest.mark.parametrize(
    ("dtype", "tiles", "name"),
    [(torch.float32, False, "torch"), (torch.bfloat16, True, "torch"), (torch.bfloat16, False, "vectors")],
)
def test_the_way_of_a_single_token(dtype: torch.dtype, tiles: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kernels.choose.multiplies_bfloat16_tiles", lambda: tiles)
    way = decoding_way(dtype)
    assert way.name == name and ("torch's attention" in way.why or "processor" in way.why)

"""Tables of shapes for the tests of kernels, and errors against the references in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rag.kernels.assemble import Kind, LayerKV
from rag.kernels.ingest_prefill import room_for
from rag.kernels.rotate import Style
from rag.kernels.warp_score_codes import Coded, num_fine, row_bytes


class Attention(NamedTuple):
    """One attention problem. ``positions``: "all", "one" (the last), "few" or "scattered"."""

    name: str
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    num_keys: int = 45
    num_rows: int = 21
    positions: str = "scattered"
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


ATTENTION = [
    Attention("plain"),
    Attention("every-position", num_rows=45, positions="all"),
    Attention("one-query", num_rows=1, positions="one"),
    Attention("one-query-bfloat16", num_rows=1, positions="one", dtype=torch.bfloat16, num_keys=600, key_dim=64, value_dim=64),
    Attention("one-query-dim-128-window-sinks", num_rows=1, positions="one", key_dim=128, value_dim=128, window=40, sinks=True),
    Attention("one-query-unequal-dims-softcap", num_rows=1, positions="few", key_dim=80, value_dim=48, softcap=2.0),
    Attention("one-query-odd-dims", num_rows=1, positions="one", key_dim=20, value_dim=20),
    Attention("one-query-group-9", heads=9, key_heads=1, num_rows=1, positions="one", dtype=torch.bfloat16),
    Attention("few-queries", num_rows=3),
    Attention("few-queries-window-sinks", num_rows=3, window=7, sinks=True),
    Attention("few-queries-many-keys", num_rows=5, num_keys=1301, key_dim=64, value_dim=64, dtype=torch.bfloat16),
    Attention("one-key", num_keys=1, num_rows=1, positions="one"),
    Attention("group-1", heads=3, key_heads=3, key_dim=80, value_dim=80),
    Attention("group-8", heads=8, key_heads=1, key_dim=64, value_dim=64, num_rows=37, num_keys=130),
    Attention("dim-96", key_dim=96, value_dim=96, sinks=True),
    Attention("dim-128", key_dim=128, value_dim=128, num_keys=301, num_rows=150, window=40),
    Attention("dim-256-softcap", key_dim=256, value_dim=256, softcap=2.0),
    Attention("unequal-dims", key_dim=48, value_dim=32, window=9, sinks=True),
    Attention("window-of-one", window=1),
    Attention("many-tiles", heads=8, key_dim=64, value_dim=64, num_keys=300, num_rows=130),
    Attention("many-tiles-window", heads=3, key_heads=1, num_keys=300, num_rows=200, window=50, dtype=torch.bfloat16),
    Attention("odd-dims", heads=6, key_dim=33, value_dim=19, num_keys=150, num_rows=70, window=61, softcap=4.0),
    Attention("bfloat16-odd-dims", key_dim=33, value_dim=19, num_keys=150, num_rows=70, dtype=torch.bfloat16),
    Attention("bfloat16-dim-96", key_dim=96, value_dim=80, num_keys=131, num_rows=77, dtype=torch.bfloat16, sinks=True),
    Attention("softcap-one-query", num_rows=1, positions="one", softcap=1.5),
    Attention("bfloat16", dtype=torch.bfloat16, num_rows=77, num_keys=200, key_dim=64, value_dim=64),
    Attention("bfloat16-window-sinks", dtype=torch.bfloat16, window=33, sinks=True, num_rows=77, num_keys=200),
    Attention("bfloat16-softcap", dtype=torch.bfloat16, softcap=3.0, num_rows=40),
]
SPARE_ROWS = 7


class Problem(NamedTuple):
    queries: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor
    sinks: Tensor | None


def problem(case: Attention, seed: int = 0) -> Problem:
    """Tensors of a case; rows of the buffers past the keys are NaN, and keys are views with a stride between heads."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(case.dtype)

    queries = normal(case.num_rows, case.heads, case.key_dim).transpose(0, 1)
    keys = normal(case.key_heads, case.num_keys + SPARE_ROWS, case.key_dim)
    values = normal(case.key_heads, case.num_keys + SPARE_ROWS, case.value_dim)
    keys[:, case.num_keys :], values[:, case.num_keys :] = float("nan"), float("nan")
    if case.positions == "all":
        positions = torch.arange(case.num_keys)
    elif case.positions == "one":
        positions = torch.tensor([case.num_keys - 1])
    else:
        positions = torch.randperm(case.num_keys, generator=made)[: case.num_rows].sort().values
    sinks = torch.randn(case.heads, generator=made) if case.sinks else None
    return Problem(queries, keys, values, positions, sinks)


class Varlen(NamedTuple):
    """Texts of these lengths end to end."""

    name: str
    lengths: Sequence[int]
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    causal: bool = False
    window: int | None = None
    dtype: torch.dtype = torch.float32


VARLEN = [
    Varlen("plain", [5, 5, 40, 1, 70]),
    Varlen("empty-texts", [0, 33, 0, 2, 0]),
    Varlen("nothing", [0, 0]),
    Varlen("causal", [70, 31, 1, 64, 9], causal=True),
    Varlen("window", [70, 31, 31, 5, 100], window=9),
    Varlen("causal-window", [70, 33, 12], causal=True, window=17),
    Varlen("window-of-one", [4, 40], window=1),
    Varlen("window-past-the-end", [4, 40], window=64),
    Varlen("group-1", [3, 50, 50], heads=3, key_heads=3, key_dim=80, value_dim=80),
    Varlen("unequal-dims", [45, 20], key_dim=48, value_dim=32),
    Varlen("dim-128", [65, 129], key_dim=128, value_dim=128, causal=True),
    Varlen("bfloat16", [40, 40, 7, 90], key_heads=4, key_dim=64, value_dim=64, dtype=torch.bfloat16),
    Varlen("bfloat16-group-causal", [40, 40, 7, 90], heads=6, causal=True, dtype=torch.bfloat16),
    Varlen("bfloat16-window", [40, 90], heads=3, key_heads=3, window=20, dtype=torch.bfloat16),
]


def varlen_problem(case: Varlen, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
    """Queries, keys, values (views of one tensor of tokens, as a projection gives them), borders, and the other arguments."""
    made = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *accumulate(case.lengths)], dtype=torch.int32)
    sizes = [case.heads * case.key_dim, case.key_heads * case.key_dim, case.key_heads * case.value_dim]
    tokens = torch.randn(int(starts[-1]), sum(sizes), generator=made).to(case.dtype)
    heads = (case.heads, case.key_heads, case.key_heads)
    split = zip(torch.split(tokens, sizes, 1), heads, strict=True)
    queries, keys, values = (part.view(len(part), some, part.shape[1] // some).transpose(0, 1) for part, some in split)
    more = {"longest": max(case.lengths), "scale": 0.3, "causal": case.causal, "window": case.window}
    return queries, keys, values, starts, more


def texts(lengths: Sequence[int], dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors ``(tokens, dim)`` of texts of these lengths, and their borders."""
    made = torch.Generator().manual_seed(seed)
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int64)
    return torch.randn(int(borders[-1]), dim, generator=made), borders


def unit_rows(num_rows: int, dim: int, seed: int = 0) -> Tensor:
    """Random vectors of length 1."""
    return torch.nn.functional.normalize(torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def coded_documents(lengths: Sequence[int], bits: int, dim: int, num_centroids: int) -> tuple[Tensor, Tensor, Coded]:
    """Levels and steps of centroids, and documents of these lengths with random codes; every run has one to three tokens."""
    made = torch.Generator().manual_seed(sum(lengths) + bits)
    levels = torch.randint(0, 256, (num_centroids, dim), generator=made).to(torch.uint8)
    runs, run_lengths, num_runs = list[int](), list[int](), list[int]()
    for length in lengths:
        before = len(runs)
        while length:
            run_lengths.append(min(length, 1 + len(runs) % 3))
            runs.append(int(torch.randint(0, num_centroids, (1,), generator=made)))
            length -= run_lengths[-1]
        num_runs.append(len(runs) - before)
    starts, run_starts = (torch.tensor([0, *accumulate(counts)], dtype=torch.int64) for counts in (lengths, num_runs))
    codes = torch.randint(0, 256, (sum(lengths), row_bytes(dim, bits)), generator=made).to(torch.uint8)
    assert bits != 5 or num_fine(dim, bits) % 16 == 0
    scales = torch.randint(0, 256, (sum(lengths),), generator=made).to(torch.uint8)
    arrays = (starts, run_starts, torch.tensor(runs).to(torch.uint16), torch.tensor(run_lengths).to(torch.uint8), codes, scales)
    return levels, torch.rand(num_centroids, generator=made) / 300, Coded(*arrays, 1e-4, bits, dim)


def rel(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def limit(dtype: torch.dtype) -> float:
    """Largest relative error that rounding explains."""
    return 2e-6 if dtype == torch.float32 else 6e-3


def states(num_parts: int, tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs ``(parts, tokens, heads, dim)`` and logarithms float32 ``(parts, heads, tokens)``; some rows saw nothing."""
    made = torch.Generator().manual_seed(seed)
    outs = torch.randn(num_parts, tokens, heads, dim, generator=made).to(dtype)
    lses = 3 * torch.randn(num_parts, heads, tokens, generator=made)
    unseen = torch.rand(num_parts, heads, tokens, generator=made) < 0.2
    outs[unseen.transpose(1, 2)] = 0
    return outs, lses.masked_fill(unseen, float("-inf"))


class Cascade(NamedTuple):
    """A decoding step of requests with ``num_common`` common keys and ``own`` keys each."""

    name: str
    own: tuple[int, ...] = (5, 0, 33, 1)
    num_common: int = 45
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


CASCADE = [
    Cascade("plain"),
    Cascade("nothing-common", num_common=0),
    Cascade("nothing-own", own=(0, 0, 0)),
    Cascade("nothing-at-all", own=(0, 0), num_common=0),
    Cascade("one-request", own=(7,)),
    Cascade("many-requests", own=tuple(range(40)), num_common=70),
    Cascade("long-own", own=(301, 40), num_common=20, key_dim=64, value_dim=64),
    Cascade("group-1", heads=3, key_heads=3, key_dim=80, value_dim=80),
    Cascade("group-16-sinks", heads=16, key_heads=1, sinks=True),
    Cascade("group-24", heads=24, key_heads=1),
    Cascade("unequal-dims-softcap", key_dim=48, value_dim=32, softcap=2.0),
    Cascade("bfloat16", own=(40, 3, 65), num_common=200, key_dim=64, value_dim=64, dtype=torch.bfloat16),
    Cascade("bfloat16-sinks-softcap", softcap=3.0, sinks=True, dtype=torch.bfloat16),
]


class Requests(NamedTuple):
    queries: Tensor
    common_keys: Tensor
    common_values: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    num_keys: list[int]

    def wide(self) -> Requests:
        """The same in float64."""
        common = (self.queries.double(), self.common_keys.double(), self.common_values.double())
        return Requests(*common, [x.double() for x in self.keys], [x.double() for x in self.values], self.num_keys)


def requests(case: Cascade, seed: int = 0) -> tuple[Requests, Tensor | None]:
    """Tensors of a case and its sinks; buffers differ in length, and their rows past the keys are NaN. Common rows are a view into a longer buffer."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(case.dtype)

    def buffer(rows: int, spare: int, dim: int) -> Tensor:
        whole = normal(case.key_heads, rows + spare, dim)
        whole[:, rows:] = float("nan")
        return whole

    common = [buffer(case.num_common, 3, dim)[:, : case.num_common] for dim in (case.key_dim, case.value_dim)]
    keys = [buffer(own, 1 + number % 3, case.key_dim) for number, own in enumerate(case.own)]
    values = [buffer(own, 1 + number % 3, case.value_dim) for number, own in enumerate(case.own)]
    sinks = torch.randn(case.heads, generator=made) if case.sinks else None
    queries = normal(len(case.own), case.heads, case.key_dim)
    return Requests(queries, common[0], common[1], keys, values, list(case.own)), sinks


class Batch(NamedTuple):
    """Requests of ``rows`` scattered queries over ``num_keys`` keys each."""

    name: str
    rows: tuple[int, ...] = (5, 21, 1, 0, 12)
    num_keys: tuple[int, ...] = (40, 60, 33, 7, 12)
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


BATCH = [
    Batch("plain"),
    Batch("one-request", rows=(37,), num_keys=(50,)),
    Batch("no-keys", rows=(3, 2), num_keys=(0, 5)),
    Batch("one-row-each", rows=(1,) * 9, num_keys=tuple(range(20, 56, 4))),
    Batch("many-requests", rows=(1, 7) * 12, num_keys=(30, 11) * 12, heads=6),
    Batch("window-sinks", window=7, sinks=True),
    Batch("long", rows=(70, 3), num_keys=(301, 200), key_dim=64, value_dim=64),
    Batch("unequal-dims-softcap", key_dim=48, value_dim=32, softcap=2.0),
    Batch("group-1", heads=3, key_heads=3, key_dim=80, value_dim=80),
    Batch("bfloat16", rows=(40, 1, 17), key_dim=64, value_dim=64, num_keys=(63, 50, 20), dtype=torch.bfloat16),
    Batch("bfloat16-window-sinks", window=20, sinks=True, dtype=torch.bfloat16),
]


def batch(case: Batch, seed: int = 0) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``selective_attention_batch``: one request's rows may see nothing, buffers differ in length, and their rows past the keys are NaN."""
    made = torch.Generator().manual_seed(seed)
    starts = [0, *accumulate(case.rows)]
    kv, positions = list[list[Tensor]](), [torch.zeros(0, dtype=torch.int64)]
    for number, (rows, count) in enumerate(zip(case.rows, case.num_keys, strict=True)):
        positions.append((torch.randint(0, count + 2, (rows,), generator=made) - 1).sort().values)
        kv.append([])
        for dim in (case.key_dim, case.value_dim):
            whole = torch.randn(case.key_heads, count + 1 + number % 3, dim, generator=made).to(case.dtype)
            whole[:, count:] = float("nan")
            kv[-1].append(whole)
    queries = torch.randn(starts[-1], case.heads, case.key_dim, generator=made).to(case.dtype).transpose(0, 1)
    sinks = torch.randn(case.heads, generator=made) if case.sinks else None
    keys, values = ([pair[part] for pair in kv] for part in (0, 1))
    more = {"num_keys": list(case.num_keys), "window": case.window, "softcap": case.softcap, "sinks": sinks, "scale": 0.3}
    return [queries, starts, keys, values, torch.cat(positions)], more


class Ingest(NamedTuple):
    """Chunks of some lengths behind a beginning of ``num_before`` tokens."""

    name: str
    lengths: tuple[int, ...] = (5, 1, 37, 33)
    num_before: int = 6
    style: Style = "half"
    kind: Kind = "plain"
    heads: int = 4
    key_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    pairs: int = 8
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32


INGEST = [
    Ingest("plain"),
    Ingest("nothing-before", num_before=0),
    Ingest("one-chunk", lengths=(70,), num_before=40),
    Ingest("no-chunk", lengths=()),
    Ingest("one-token-each", lengths=(1, 1, 1), kind="int8"),
    Ingest("not-rotated", style="none", kind="int4"),
    Ingest("interleaved-partial", style="interleaved", key_dim=32, value_dim=32, pairs=4, kind="int8"),
    Ingest("half-partial", key_dim=80, value_dim=48, pairs=20, kind="int4"),
    Ingest("window", window=9, num_before=40, sinks=True),
    Ingest("window-of-one", window=1),
    Ingest("window-within-the-chunk", window=20, lengths=(70, 3), num_before=3),
    Ingest("softcap-group-1", softcap=2.0, heads=3, key_heads=3),
    Ingest("group-8-sinks", heads=8, key_heads=1, sinks=True),
    Ingest("bfloat16", lengths=(70, 40), num_before=20, key_dim=64, value_dim=64, pairs=32, dtype=torch.bfloat16, kind="int8"),
    Ingest("bfloat16-interleaved-window", style="interleaved", window=25, dtype=torch.bfloat16, kind="int4"),
]


class Chunks(NamedTuple):
    """The first eight arguments of ``ingest_prefill`` and the keywords."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    borders: list[int]
    cos: Tensor
    sin: Tensor
    style: Style
    into: LayerKV

    def room(self) -> LayerKV:
        """Another place of the same content."""
        keys, values, key_scales, value_scales = (None if tensor is None else tensor.clone() for tensor in self.into[:4])
        assert keys is not None and values is not None
        return LayerKV(keys, values, key_scales, value_scales, self.into.kind)


def chunks(case: Ingest, seed: int = 0) -> tuple[Chunks, dict[str, Any]]:
    """Tensors of a case and the keywords; packed rows are views with a stride between heads, and what is to be filled is poisoned."""
    made = torch.Generator().manual_seed(seed)
    tokens = sum(case.lengths)

    def rows(heads: int, num: int, dim: int) -> Tensor:
        return torch.randn(num, heads, dim, generator=made).to(case.dtype).transpose(0, 1)

    angles = 100 * torch.rand(case.num_before + max(case.lengths, default=0) + 2, case.pairs, generator=made)
    into = room_for(case.key_heads, len(case.lengths), tokens, case.key_dim, case.value_dim, case.kind, case.dtype)
    for tensor in into[:4]:
        if tensor is not None:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
    before = (rows(case.key_heads, case.num_before, case.key_dim), rows(case.key_heads, case.num_before, case.value_dim))
    more = {
        "before": before if case.num_before else None,
        "window": case.window,
        "softcap": case.softcap,
        "sinks": torch.randn(case.heads, generator=made) if case.sinks else None,
        "scale": 0.3,
    }
    packed = (
        rows(case.heads, tokens, case.key_dim),
        rows(case.key_heads, tokens, case.key_dim),
        rows(case.key_heads, tokens, case.value_dim),
    )
    borders = [0, *accumulate(case.lengths)]
    return Chunks(*packed, borders, angles.cos(), angles.sin(), case.style, into), more

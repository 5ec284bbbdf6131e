"""Runs the Triton kernels in the strict interpreter and prints one JSON line a case: its name, and what went wrong. Run by ``test_triton``."""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"
from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from rag.kernels import attention_triton, tiles, token_logprob_triton
from rag.kernels.assemble import assemble_layers, assemble_reference
from rag.kernels.cascade_decode import cascade_decode, cascade_decode_reference
from rag.kernels.column_mass import column_mass, column_mass_reference
from rag.kernels.deviation import kv_deviation, kv_deviation_reference
from rag.kernels.ingest_prefill import ingest_prefill, ingest_prefill_reference
from rag.kernels.maxsim import maxsim, maxsim_reference, maxsim_rows
from rag.kernels.merge_states import merge_states, merge_states_reference
from rag.kernels.paged import assemble_pages, pieces_of_pages
from rag.kernels.quantise import quantise_kv, quantise_reference
from rag.kernels.selective_attention import selective_attention, selective_attention_reference, with_sinks
from rag.kernels.selective_batch import selective_attention_batch, selective_batch_reference
from rag.kernels.token_logprob import token_logprob, token_logprob_reference
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from rag.kernels.warp_score import (
    centroid_scores,
    centroid_scores_reference,
    document_scores,
    document_scores_reference,
    interaction,
    interaction_reference,
    lanes_of,
    top_rows,
    top_rows_reference,
)
from rag.kernels.warp_score_codes import Coded
from rag.kernels.window_scores import window_scores, window_scores_reference
from tests.kernels.cases import (
    ATTENTION,
    BATCH,
    CASCADE,
    INGEST,
    VARLEN,
    Attention,
    Batch,
    Cascade,
    Ingest,
    Varlen,
    batch,
    chunks,
    coded_documents,
    limit,
    problem,
    rel,
    requests,
    states,
    texts,
    unit_rows,
    varlen_problem,
)
from tests.kernels.interpreter import Fault, install, watched
from tests.kernels.pieces import pieces_of, table
from tests.kernels.planted import PLANTED, must_be_seen

SMALL_TILE = tiles.Tile(32, 32, 4, 1, 16)


@triton.jit
def spoil(x, y, N: tl.constexpr, PAST: tl.constexpr, SAME: tl.constexpr):
    n = tl.arange(0, N)
    at = n if SAME else tl.program_id(0) * N + n
    tl.store(y + at, tl.load(x + at + PAST))


@triton.jit
def small_product(x, y):
    n = tl.arange(0, 8)
    tile = tl.load(x + n[:, None] * 8 + n[None, :])
    tl.store(y + n[:, None] * 8 + n[None, :], tl.dot(tile, tile))


@triton.jit
def short_arithmetic(x, y, N: tl.constexpr):
    n = tl.arange(0, N)
    a = tl.load(x + n)
    tl.store(y + n, a + a * a)


def attention(case: Attention) -> None:
    queries, keys, values, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks}
    with watched(queries, keys, values):
        out, lse = selective_attention(queries, keys, values, positions, scale=0.3, return_lse=True, **more)
        mass = column_mass(queries, keys, positions, scale=0.3, **more)
        known = {name: value for name, value in more.items() if name != "sinks"}
        scores = window_scores(queries, keys, positions, lse, scale=0.3, **known)
    expected, expected_lse = selective_attention_reference(
        queries.double(), keys.double(), values.double(), positions, scale=0.3, **more
    )
    assert rel(out, expected) < limit(case.dtype), rel(out, expected)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)
    expected_mass = column_mass_reference(queries.double(), keys.double(), positions, scale=0.3, **more)
    assert rel(mass, expected_mass) < 1e-5, rel(mass, expected_mass)
    expected_scores = window_scores_reference(queries.double(), keys.double(), positions, lse, scale=0.3, **known)
    assert rel(scores, expected_scores) < 1e-5, rel(scores, expected_scores)


def cascade(case: Cascade) -> None:
    made, sinks = requests(case)
    with watched(made.common_keys, made.common_values, *made.keys, *made.values):
        out = cascade_decode(*made, scale=0.3, softcap=case.softcap, sinks=sinks)
    expected = cascade_decode_reference(*made.wide(), scale=0.3, softcap=case.softcap, sinks=sinks)
    assert rel(out, expected) < limit(case.dtype), rel(out, expected)


def batched(case: Batch) -> None:
    given, more = batch(case)
    with watched(given[0], *given[2], *given[3], given[4]):
        out, lse = selective_attention_batch(*given, **more)
    sinks = more.pop("sinks")
    wide = [given[0].double(), given[1], [x.double() for x in given[2]], [x.double() for x in given[3]], given[4]]
    expected, expected_lse = with_sinks(*selective_batch_reference(*wide, **more), sinks)
    assert rel(out, expected) < limit(case.dtype), rel(out, expected)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


def ingest(case: Ingest) -> None:
    made, more = chunks(case)
    other = made._replace(into=made.room())
    held = [tensor for tensor in (*made.into[:4], *(more["before"] or ())) if tensor is not None]
    with watched(*held, seed=2):
        out = ingest_prefill(*made, **more)
    expected = ingest_prefill_reference(*other, **more)
    assert rel(out, expected) < limit(case.dtype), rel(out, expected)
    for one, another in zip(made.into[:4], other.into[:4], strict=True):
        assert (one is None) == (another is None) and (one is None or another is None or torch.equal(one, another))


def merging(num_parts: int, tokens: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    outs, lses = states(num_parts, tokens, heads, dim, dtype)
    outs[-1], lses[-1] = float("nan"), float("-inf")  # not to be read
    with watched():
        merged, total = merge_states(outs, lses)
        listed = merge_states(list(outs), list(lses))
    expected, expected_total = merge_states_reference(outs.double(), lses)
    assert rel(merged, expected) < limit(dtype), rel(merged, expected)
    torch.testing.assert_close(total, expected_total, atol=1e-6, rtol=1e-6)
    assert torch.equal(merged, listed[0]) and torch.equal(total, listed[1])


def within_texts(case: Varlen) -> None:
    queries, keys, values, starts, more = varlen_problem(case)
    with watched(queries, keys, values, starts):
        found = varlen_attention(queries, keys, values, starts, **more)
    expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **more)
    assert rel(found, expected) < limit(case.dtype), rel(found, expected)


def assembly(kind: str, style: Any, key_dim: int, value_dim: int, pairs: int, dtype: torch.dtype) -> None:
    pieces = pieces_of(kind, [5, 0, 33, 1], key_dim, value_dim, dtype)
    cos, sin = table(60, pairs)
    found = torch.full((3, 2, 64, key_dim), float("nan")).to(dtype), torch.full((3, 2, 64, value_dim), float("nan")).to(dtype)
    expected = found[0].clone(), found[1].clone()
    with watched(*(tensor for piece in pieces for kv in piece for tensor in kv[:4] if tensor is not None), seed=1):
        assemble_layers(pieces, [2, 7, 8, 50], cos, sin, style, *found)
    assemble_reference(pieces, [2, 7, 8, 50], cos, sin, style, *expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def in_pages(kind: str) -> None:
    pool, _ = pieces_of(kind, [32, 1], 32, 16, torch.bfloat16)
    cut, starts = pieces_of_pages(pool, [3, 0, 2], 8, 20, start=6)
    found, expected = ([torch.full((3, 2, rows, dim), -1.0).bfloat16() for dim in (32, 16)] for rows in (56, 32))
    whole = [part.clone() for part in expected]
    with watched(*(tensor for piece in cut for kv in piece for tensor in kv[:4] if tensor is not None), seed=3):
        assemble_layers(cut, starts, *table(40, 16), "half", *whole)
        if kind == "plain":
            assemble_pages(cut, starts, *table(40, 16), "half", *found, pages=[4, 6, 0, 3], page_rows=8)
    assemble_reference(cut, starts, *table(40, 16), "half", *expected)
    assert all(torch.equal(one, other) for one, other in zip(whole, expected, strict=True))
    slots = torch.tensor([[4, 6, 0, 3][position // 8] * 8 + position % 8 for position in range(32)])
    assert kind != "plain" or all(torch.equal(one[:, :, slots], other) for one, other in zip(found, expected, strict=True))


def codes(kind: Any, tokens: int, dim: int, dtype: torch.dtype) -> None:
    keys, values = torch.randn(2, 2, 2, tokens, dim).to(dtype)
    keys[0, 0, :, 3] = 0
    with watched():
        found = quantise_kv(keys, values, kind)
    for one, other in zip(found[:4], quantise_reference(keys, values, kind)[:4], strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


def deviation(part: Any, tokens: int, dtype: torch.dtype) -> None:
    new_keys, new_values, old_keys, old_values = torch.randn(4, 2, tokens, 20).to(dtype)
    with watched():
        found = kv_deviation(new_keys, new_values, old_keys, old_values, part)
    torch.testing.assert_close(found, kv_deviation_reference(new_keys, new_values, old_keys, old_values, part))


def late_interaction(dim: int, dtype: torch.dtype, stored: torch.dtype) -> None:
    (queries, query_starts), (vectors, starts) = texts([5, 0, 40], dim, 1), texts([3, 0, 70, 64, 1], dim, 2)
    scales = None
    if stored == torch.int8:
        scales = vectors.abs().amax(1) / 127
        vectors = (vectors / scales[:, None]).round()
    given = (queries.to(dtype), query_starts, vectors.to(stored), starts, scales)
    with watched():
        found, (scores, rows) = maxsim(*given), maxsim_rows(*given)
    nearest = torch.empty_like(rows)
    torch.testing.assert_close(found, maxsim_reference(*given, rows=nearest), rtol=1e-4, atol=1e-3)
    assert torch.equal(scores, found)
    assert torch.equal(rows, nearest)


def word_logprobs(num_rows: int, num_words: int, dim: int, dtype: torch.dtype, biased: bool) -> None:
    hidden, weight = torch.randn(num_rows, dim).to(dtype), torch.randn(num_words, dim).to(dtype)
    targets, bias = torch.randint(0, num_words, (num_rows,)), torch.randn(num_words).to(dtype) if biased else None
    with watched():
        found = token_logprob(hidden, weight, targets, bias)
    torch.testing.assert_close(found, token_logprob_reference(hidden, weight, targets, bias), rtol=1e-4, atol=1e-4)


def compressed_search(bits: int, dim: int, num_tokens: int, faulty: bool = False) -> None:
    lengths = [3, 0, 1, 70, 129, 7]
    levels, steps, coded = coded_documents(lengths, bits, dim, 150)
    allowed = torch.tensor([True, True, False, True, True, True])
    rows = torch.tensor([4, 0, 3, 1, 5, 4])
    given: Coded = replace(coded, codes=coded.codes.roll(1, 0)) if faulty else coded
    with watched(*(tensor for tensor in vars(coded).values() if isinstance(tensor, torch.Tensor)), seed=2):
        lanes = lanes_of(unit_rows(num_tokens, dim, 3))
        centroids = centroid_scores(lanes, levels, steps)
        sums = interaction(centroids.table, coded.runs, coded.run_starts, allowed)
        found = document_scores(lanes, centroids, given, rows)
    expected = centroid_scores_reference(lanes, levels, steps)
    torch.testing.assert_close(centroids.scores, expected.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(centroids.floors, expected.floors, atol=1e-5, rtol=1e-5)
    assert (centroids.table.int() - expected.table.int()).abs().max() <= 1
    assert torch.equal(sums, interaction_reference(centroids.table, coded.runs, coded.run_starts, allowed))
    torch.testing.assert_close(found, document_scores_reference(lanes, centroids, coded, rows), atol=1e-4, rtol=1e-5)


def best_rows(count: int, k: int) -> None:
    values = torch.randint(-1, 40, (count,), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
    with watched(values):
        found = top_rows(values, k, 40)
    assert torch.equal(found, top_rows_reference(values, k))


def fails(check: Callable[[], None]) -> None:
    try:
        check()
    except AssertionError:
        return
    raise RuntimeError("a planted fault was not seen")


def shim_catches(kernel: Any, grid: int, *arguments: Any, **named: Any) -> None:
    try:
        with watched():
            kernel[(grid,)](*arguments, **named)
    except Fault:
        return
    except Exception as error:
        if "Fault" in repr(error) or isinstance(error.__cause__, Fault):
            return
        raise
    raise AssertionError("not noticed")


def shim_rounds() -> None:
    x = torch.randn(64).bfloat16()
    y = torch.empty_like(x)
    with watched():
        short_arithmetic[(1,)](x, y, N=64)
    assert torch.equal(y, x + x * x)


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and check of every case."""
    for case in ATTENTION:
        yield f"attention {case.name}", lambda case=case: attention(case)  # type: ignore[misc]
    for within in VARLEN:
        yield f"varlen attention {within.name}", lambda within=within: within_texts(within)  # type: ignore[misc]
    for one in CASCADE:
        yield f"cascade {one.name}", lambda one=one: cascade(one)  # type: ignore[misc]
    for several in BATCH:
        yield f"batch {several.name}", lambda several=several: batched(several)  # type: ignore[misc]
    for chunked in INGEST:
        yield f"ingest {chunked.name}", lambda chunked=chunked: ingest(chunked)  # type: ignore[misc]
    for parts in ((3, 37, 3, 24, torch.float32), (2, 5, 4, 64, torch.bfloat16), (5, 1, 1, 256, torch.bfloat16)):
        yield f"merge {parts}", lambda parts=parts: merging(*parts)  # type: ignore[misc]
    for style, key_dim, value_dim, pairs in (
        ("half", 16, 16, 8),
        ("half", 80, 48, 20),
        ("interleaved", 32, 32, 16),
        ("none", 24, 24, 0),
    ):
        for kind in ("plain", "int8", "int4"):
            for dtype in (torch.float32, torch.bfloat16):
                shape = (kind, style, key_dim, value_dim, pairs, dtype)
                yield f"assembly {kind} {style} {key_dim} {dtype}", lambda shape=shape: assembly(*shape)  # type: ignore[misc]
    for paged in ("plain", "int8", "int4"):
        yield f"pages {paged}", lambda paged=paged: in_pages(paged)  # type: ignore[misc]
    for code in ("int8", "int4"):
        for tokens, dim in ((1, 16), (45, 80)):
            for dtype in (torch.float32, torch.bfloat16):
                yield f"codes {code} {tokens} {dtype}", lambda a=(code, tokens, dim, dtype): codes(*a)  # type: ignore[misc]
    for part in ("k", "v", "kv"):
        yield f"deviation {part}", lambda part=part: deviation(part, 37, torch.bfloat16)  # type: ignore[misc]
    for dim, dtype, stored in (
        (16, torch.float32, torch.float32),
        (96, torch.bfloat16, torch.bfloat16),
        (128, torch.bfloat16, torch.int8),
        (24, torch.float32, torch.float16),
    ):
        yield f"maxsim {dim} {stored}", lambda a=(dim, dtype, stored): late_interaction(*a)  # type: ignore[misc]
    for sizes in (
        (5, 300, 24, torch.float32, True),
        (70, 129, 64, torch.bfloat16, False),
        (1, 1000, 40, torch.bfloat16, True),
    ):
        yield f"token logprob {sizes}", lambda sizes=sizes: word_logprobs(*sizes)  # type: ignore[misc]
    for bits, dim, num_tokens in ((2, 64, 5), (4, 128, 32), (5, 128, 17), (5, 96, 3), (8, 48, 16)):
        yield f"warp score {bits} {dim} {num_tokens}", lambda a=(bits, dim, num_tokens): compressed_search(*a)  # type: ignore[misc]
    yield "warp score, a planted fault", lambda: fails(lambda: compressed_search(5, 128, 17, faulty=True))
    for count, k in ((0, 3), (7, 9), (2500, 5), (1500, 200)):
        yield f"top rows {count} {k}", lambda a=(count, k): best_rows(*a)  # type: ignore[misc]
    ones = torch.ones(64)
    yield "shim out of bounds", lambda: shim_catches(spoil, 2, ones, torch.empty(64), N=32, PAST=1, SAME=False)
    yield "shim race", lambda: shim_catches(spoil, 2, ones, torch.empty(64), N=32, PAST=0, SAME=True)
    yield "shim small product", lambda: shim_catches(small_product, 1, ones, torch.empty(64))
    yield "shim bfloat16", shim_rounds


def main() -> None:
    """Prints the lines."""
    install()
    tiles.TILES = dict.fromkeys(tiles.TILES, SMALL_TILE)
    attention_triton.LEAST_KEYS = 32
    token_logprob_triton.PROGRAMS = 4  # so that a program meets some blocks of words
    checks = dict(cases())
    planted: dict[str, Callable[[], None]] = {
        f"planted {number} {fault.module}": partial(must_be_seen, fault, checks[fault.case]) for number, fault in enumerate(PLANTED)
    }
    for name, check in {**checks, **planted}.items():
        try:
            check()
            wrong = ""
        except Exception:  # noqa: BLE001 - said in the line, and the next case runs
            wrong = traceback.format_exc()[-2500:]
        print(json.dumps({"name": name, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()

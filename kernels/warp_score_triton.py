"""The steps of a multi-vector search on a GPU: Triton kernels and their launchers. Knows tiles; checks no shape. See ``warp_score``.

Products are of whole numbers in bytes, those of the processor's path. A document is one program: its maxima stay in registers, and only
one number is written. Levels of 8 bits are moved by 128, since a GPU multiplies signed bytes.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-any-return, attr-defined, index"

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from rag.kernels.warp_score import CentroidScores, Lanes
    from rag.kernels.warp_score_codes import Coded

CENTROID_TILE = 128
RUN_TILE = 64
TOKEN_TILE = 64
BYTES_TILE = 4096
BEST_TILE = 1024
MOST_IN_TILES = 128
"""Up to so many best rows are found in tiles; above, a tile would keep too much of what it reads."""


def centroid_scores_triton(lanes: Lanes, levels: Tensor, steps: Tensor, span: float) -> tuple[Tensor, Tensor, Tensor]:
    """See ``warp_score.centroid_scores``: its three tensors."""
    import torch

    (num_centroids, dim), width = levels.shape, len(lanes.units)
    scores = torch.empty(num_centroids, width, device=levels.device)
    largest = torch.full((width,), float("-inf"), device=levels.device)
    score_tile[(triton.cdiv(num_centroids, CENTROID_TILE),)](
        levels.contiguous(),
        steps.contiguous(),
        lanes.numbers,
        lanes.units,
        scores,
        largest,
        num_centroids,
        D=dim,
        DP=max(32, triton.next_power_of_2(dim)),
        W=width,
        BN=CENTROID_TILE,
        num_warps=4,
        num_stages=2,
    )
    table = torch.empty(num_centroids, width, dtype=torch.uint8, device=levels.device)
    floors = largest - span
    total = num_centroids * width
    bytes_tile[(triton.cdiv(total, BYTES_TILE),)](scores, floors, table, total, 255 / span, W=width, BN=BYTES_TILE, num_warps=4)
    return scores, table, floors


def interaction_triton(table: Tensor, runs: Tensor, run_starts: Tensor, allowed: Tensor | None) -> Tensor:
    """See ``warp_score.interaction``."""
    import torch

    num_documents = len(run_starts) - 1
    out = torch.empty(num_documents, dtype=torch.int32, device=table.device)
    if num_documents:
        mask = table if allowed is None else allowed
        interact[(num_documents,)](
            table, runs, run_starts, mask, out, MASKED=allowed is not None, W=table.shape[1], BN=RUN_TILE, num_warps=2
        )  # fmt: skip
    return out


def top_rows_triton(values: Tensor, k: int) -> Tensor:
    """See ``warp_score.top_rows``. A value and its row are one number, so that no two are equal."""
    import torch

    keys = torch.empty(0, dtype=torch.int64, device=values.device)
    if len(values) and k <= MOST_IN_TILES:
        kept, count, given = max(2, triton.next_power_of_2(k)), len(values), values
        while True:
            num_tiles = triton.cdiv(count, BEST_TILE)
            keys = torch.empty(num_tiles * kept, dtype=torch.int64, device=values.device)
            best_of_tile[(num_tiles,)](given, keys, count, FIRST=given is values, K=kept, BN=BEST_TILE, num_warps=4)
            if num_tiles == 1:
                break
            count, given = len(keys), keys
    elif len(values):
        rows = torch.arange(len(values), device=values.device)
        keys = torch.topk((values.long() << 32) | (0xFFFFFFFF - rows), min(k, len(values))).values
    keys = keys[keys >= 0][:k]  # a value that is not negative makes a key that is not
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def document_scores_triton(lanes: Lanes, centroids: CentroidScores, coded: Coded, rows: Tensor) -> Tensor:
    """See ``warp_score.document_scores``."""
    import torch

    out = torch.empty(len(rows), device=rows.device)
    if not len(rows):
        return out
    of_token = coded.of_token
    if of_token is None:
        of_token = torch.repeat_interleave(coded.runs.int(), coded.run_lengths.int()).to(torch.uint16)
    width = 4 if coded.bits == 5 else coded.bits
    plain = coded.dim * width // 8
    score_document[(len(rows),)](
        rows,
        coded.token_starts,
        of_token,
        coded.codes,
        coded.scales,
        centroids.scores,
        lanes.numbers,
        lanes.units,
        out,
        coded.scale_unit,
        lanes.num_tokens,
        D=coded.dim,
        RB=coded.codes.shape[1],
        PLAIN=plain,
        PP=max(32, triton.next_power_of_2(plain)),
        WIDTH=width,
        FINE=coded.num_fine if coded.bits == 5 else 0,
        FP=max(4, triton.next_power_of_2(coded.dim // 8)),
        W=lanes.numbers.shape[0],
        BN=TOKEN_TILE,
        num_warps=4,
        num_stages=2,
    )
    return out


@triton.jit
def score_tile(
    levels, steps, numbers, units, scores, largest, num_centroids,
    D: tl.constexpr, DP: tl.constexpr, W: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    d, lane = tl.arange(0, DP), tl.arange(0, W)
    there = row < num_centroids
    given = tl.load(levels + row[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=128)
    asked = tl.load(numbers + lane[None, :] * D + d[:, None], mask=(d < D)[:, None], other=0)
    products = tl.dot((given.to(tl.int32) - 128).to(tl.int8), asked, out_dtype=tl.int32)
    step = tl.load(steps + row, mask=there, other=0.0)
    found = products.to(tl.float32) * tl.load(units + lane)[None, :] * step[:, None]
    tl.store(scores + row[:, None] * W + lane[None, :], found, mask=there[:, None])
    tl.atomic_max(largest + lane, tl.max(tl.where(there[:, None], found, float("-inf")), 0))


@triton.jit
def bytes_tile(scores, floors, table, total, factor, W: tl.constexpr, BN: tl.constexpr):
    place = tl.program_id(0) * BN + tl.arange(0, BN)
    there = place < total
    value = (tl.load(scores + place, mask=there, other=0.0) - tl.load(floors + place % W)) * factor + 0.5
    tl.store(table + place, tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.uint8), mask=there)


@triton.jit
def interact(table, runs, run_starts, allowed, out, MASKED: tl.constexpr, W: tl.constexpr, BN: tl.constexpr):
    document = tl.program_id(0)
    first, last = tl.load(run_starts + document), tl.load(run_starts + document + 1)
    if MASKED:
        there = tl.load(allowed + document) != 0
        last = tl.where(there, last, first)
    run, lane = tl.arange(0, BN), tl.arange(0, W)
    best = tl.zeros((W,), tl.int32)
    for start in range(first, last, BN):
        held = (start + run) < last
        centroid = tl.load(runs + start + run, mask=held, other=0).to(tl.int32)
        found = tl.load(table + centroid[:, None] * W + lane[None, :], mask=held[:, None], other=0)
        best = tl.maximum(best, tl.max(found.to(tl.int32), 0))
    total = tl.sum(best, 0)
    if MASKED:
        total = tl.where(there, total, -1)
    tl.store(out + document, total)


@triton.jit
def best_of_tile(values, keys, count, FIRST: tl.constexpr, K: tl.constexpr, BN: tl.constexpr):
    tile = tl.program_id(0)
    place = tile * BN + tl.arange(0, BN)
    there = place < count
    given = tl.load(values + place, mask=there, other=-1).to(tl.int64)
    if FIRST:
        given = tl.where(there & (given >= 0), (given << 32) | (0xFFFFFFFF - place.to(tl.int64)), -1)
    tl.store(keys + tile * K + tl.arange(0, K), tl.topk(given, K))


@triton.jit
def score_document(
    rows, token_starts, of_token, codes, scales, scores, numbers, units, out, scale_unit, num_tokens,
    D: tl.constexpr, RB: tl.constexpr, PLAIN: tl.constexpr, PP: tl.constexpr, WIDTH: tl.constexpr, FINE: tl.constexpr,
    FP: tl.constexpr, W: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # A token's levels come part by part: part p of PLAIN bytes is the dimensions from p * PLAIN on. With FINE dimensions, a level is
    # twice its four bits, plus a bit of the plane behind them.
    row = tl.load(rows + tl.program_id(0))
    first, last = tl.load(token_starts + row), tl.load(token_starts + row + 1)
    n, b, lane = tl.arange(0, BN), tl.arange(0, PP), tl.arange(0, W)
    unit = tl.load(units + lane)
    inside = b < PLAIN
    best = tl.full((W,), float("-inf"), tl.float32)
    for start in range(first, last, BN):
        there = (start + n) < last
        centroid = tl.load(of_token + start + n, mask=there, other=0).to(tl.int32)
        base = tl.load(scores + centroid[:, None] * W + lane[None, :], mask=there[:, None], other=0.0)
        own = codes + start * RB + n[:, None] * RB
        packed = tl.load(own + b[None, :], mask=there[:, None] & inside[None, :], other=0).to(tl.int32)
        dots = tl.zeros((BN, W), tl.int32)
        offset = tl.zeros((W,), tl.float32)
        for part in tl.static_range(8 // WIDTH):
            place = part * PLAIN + b
            level = (packed >> (part * WIDTH)) & ((1 << WIDTH) - 1)
            asked = tl.load(numbers + lane[None, :] * D + place[:, None], mask=inside[:, None], other=0)
            if FINE > 0:
                level *= 2
                middle = tl.where(place < FINE, 15.5, 15.0)
            elif WIDTH == 8:
                level -= 128
                middle = tl.full((PP,), -0.5, tl.float32)
            else:
                middle = tl.full((PP,), (2**WIDTH - 1) / 2, tl.float32)
            dots = tl.dot(level.to(tl.int8), asked, dots, out_dtype=tl.int32)
            offset -= tl.sum(asked.to(tl.float32) * middle[:, None], 0)
        if FINE > 0:
            byte, d = tl.arange(0, FP), tl.arange(0, FP * 8)
            plane = tl.load(own + PLAIN + byte[None, :], mask=there[:, None] & (byte < FINE // 8)[None, :], other=0).to(tl.int32)
            flags = tl.reshape((plane[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1, (BN, FP * 8))
            asked = tl.load(numbers + lane[None, :] * D + d[:, None], mask=(d < FINE)[:, None], other=0)
            dots = tl.dot(flags.to(tl.int8), asked, dots, out_dtype=tl.int32)
        scale = tl.load(scales + start + n, mask=there, other=0).to(tl.float32) * scale_unit
        found = base + (dots.to(tl.float32) + offset[None, :]) * unit[None, :] * scale[:, None]
        best = tl.maximum(best, tl.max(tl.where(there[:, None], found, float("-inf")), 0))
    tl.store(out + tl.program_id(0), tl.sum(tl.where(lane < num_tokens, best, 0.0), 0))

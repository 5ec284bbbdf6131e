"""The key-value kernels on a processor beside what torch offers for the same: milliseconds by turns, ratios, errors against float64.

    python bench/kernels_cpu.py [--part requests]

Shapes: 16 layers, 4 key heads of 64 (assembly of 8 pieces of 512 tokens); 16 query heads, 4,128 keys (attention); 12 heads of 64, 64 texts of 8 to
256 tokens (attention within texts); 32 query tokens, 1,000 documents of 20 to 300 tokens of 128 dimensions (late interaction) and 1,600 of 60 to 190
tokens in codes of 2, 4 and 5 bits, centroids scored too. Peers: assembly as
torch expressions; ``scaled_dot_product_attention`` with a mask tensor, causal, with one query, and over padded texts; ``einsum`` over padded
documents, of codes decompressed beforehand. Requests: chunks of 512 tokens behind 64, a decoding step of 8 requests with 4,096 common keys, 8 requests of 48 scattered rows over 1,024 keys each, states of attention, rotation; peers are
torch's attention request by request, and expressions. Every figure is the median of runs that take
turns, by the clock and of the processor, with one thread and with two; the load of the machine before and after stands in the result: on shared cores torch's operations of two
threads wait for each other, by whole time slices, and only the figures with one thread compare the loops themselves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import of_processor, write_result
from rag.kernels.assemble import LayerKV, assemble_layers, assemble_reference
from rag.kernels.cascade_decode import cascade_decode
from rag.kernels.choose import processor_way
from rag.kernels.ingest_prefill import ingest_prefill, room_for
from rag.kernels.maxsim import maxsim
from rag.kernels.merge_states import merge_states
from rag.kernels.quantise import layer_of, quantise_kv
from rag.kernels.rotate import rotate, rotate_reference
from rag.kernels.selective_attention import selective_attention
from rag.kernels.selective_batch import selective_attention_batch
from rag.kernels.varlen_attention import varlen_attention
from rag.kernels.warp_score import centroid_scores, document_scores, lanes_of
from rag.kernels.warp_score_codes import Coded, row_bytes, unpacked
from rag.kernels.warp_score_lanes import explain

LAYERS, KEY_HEADS, HEADS, DIM = 16, 4, 16, 64
PIECES, PIECE_TOKENS, NUM_KEYS, NUM_ROWS = 8, 512, 4128, 650
ROUNDS = 5
THREADS = (1, 2)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compared(runs: Mapping[str, Callable[[], Any]], peer: str) -> dict[str, Any]:
    """Milliseconds of each by the clock and of the processor, and how many times as long the peer takes; medians of runs that take turns."""
    walls: dict[str, list[float]] = {name: [] for name in runs}
    processors: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(ROUNDS):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            wall, processor = time.perf_counter(), time.process_time()
            runs[name]()
            walls[name].append(time.perf_counter() - wall)
            processors[name].append(time.process_time() - processor)
    by_clock, by_processor = ({name: 1000 * statistics.median(some) for name, some in each.items()} for each in (walls, processors))
    ours = next(name for name in runs if name != peer)
    return {
        "milliseconds": {name: round(value, 3) for name, value in by_clock.items()},
        "processor_milliseconds": {name: round(value, 3) for name, value in by_processor.items()},
        "peer_over_ours": round(by_clock[peer] / by_clock[ours], 2),
        "peer_over_ours_by_processor": round(by_processor[peer] / by_processor[ours], 2),
    }


def assembly(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """All layers of a prompt of pieces, rotated in the style of Llama, beside the same as torch expressions."""
    pieces = []
    for _ in range(PIECES):
        keys, values = torch.randn(2, LAYERS, KEY_HEADS, PIECE_TOKENS, DIM).to(dtype)
        held = LayerKV(keys, values) if kind == "plain" else quantise_kv(keys, values, kind)  # type: ignore[arg-type]
        pieces.append([layer_of(held, layer) for layer in range(LAYERS)])
    starts = [PIECE_TOKENS * number for number in range(PIECES)]
    angles = torch.rand(NUM_KEYS, DIM // 2) * 100
    buffers = [torch.zeros(LAYERS, KEY_HEADS, NUM_KEYS, DIM, dtype=dtype) for _ in range(6)]
    turns = (angles.cos(), angles.sin(), "half")
    runs = {
        "ours": lambda: assemble_layers(pieces, starts, *turns, buffers[0], buffers[1]),  # type: ignore[arg-type]
        "torch": lambda: assemble_reference(pieces, starts, *turns, buffers[2], buffers[3]),  # type: ignore[arg-type]
    }
    if kind == "plain":  # what no assembly can be faster than
        runs["copy"] = lambda: [
            to[layer, :, start : start + PIECE_TOKENS].copy_(part)
            for start, piece in zip(starts, pieces, strict=True)
            for layer, kv in enumerate(piece)
            for to, part in zip(buffers[4:], kv[:2], strict=True)
        ]
    found = compared(runs, "torch")
    assert torch.equal(buffers[0], buffers[2]) and torch.equal(buffers[1], buffers[3])
    return found


def attention(rows: int, dtype: torch.dtype, dim: int = DIM) -> dict[str, Any]:
    """``rows`` scattered queries (all positions where it is the number of keys), beside torch's attention."""
    queries = torch.randn(HEADS, rows, dim).to(dtype)
    keys, values = torch.randn(2, KEY_HEADS, NUM_KEYS, dim).to(dtype)
    positions = torch.randperm(NUM_KEYS)[:rows].sort().values if rows > 1 else torch.tensor([NUM_KEYS - 1])
    mask = torch.arange(NUM_KEYS) <= positions[:, None]
    how: dict[str, Any] = {"is_causal": True} if rows == NUM_KEYS else {} if rows == 1 else {"attn_mask": mask}

    def ours() -> torch.Tensor:
        return selective_attention(queries, keys, values, positions, num_keys=NUM_KEYS, scale=dim**-0.5)

    def peer(wide: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor) -> torch.Tensor:
        found = torch.nn.functional.scaled_dot_product_attention(
            wide(queries)[None], wide(keys)[None], wide(values)[None], enable_gqa=True, **how
        )
        return found[0].transpose(0, 1)

    found = compared({"ours": ours, "sdpa": peer}, "sdpa")
    expected = peer(lambda tensor: tensor.double())
    found["relative_error"] = {name: _relative(run(), expected) for name, run in (("ours", ours), ("sdpa", peer))}
    if rows == 1:
        found["ours_gigabytes_per_second"] = round(2 * keys.numel() * keys.element_size() / found["milliseconds"]["ours"] / 1e6, 1)
    return found


def within_texts(dtype: torch.dtype) -> dict[str, Any]:
    """Sixty-four texts end to end, sorted by length as a pack of an encoder is, beside the same texts padded."""
    lengths = torch.randint(8, 257, (64,)).sort(descending=True).values
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    queries, keys, values = torch.randn(int(starts[-1]), 3, 12, DIM).to(dtype).permute(1, 2, 0, 3)
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(3, *real.shape, 12, DIM, dtype=dtype)
    padded[:, real] = torch.stack((queries, keys, values)).transpose(1, 2)
    q, k, v = padded.transpose(2, 3)

    def ours() -> torch.Tensor:
        return varlen_attention(queries, keys, values, starts, longest=int(lengths.max()), scale=DIM**-0.5)

    def peer() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])

    found = compared({"ours": ours, "sdpa, padded": peer}, "sdpa, padded")
    found["difference"] = _relative(ours(), peer().transpose(1, 2)[real].double())
    return found


def late_interaction(dtype: torch.dtype) -> dict[str, Any]:
    """One question of 32 token vectors with a thousand documents, beside one product over padded documents."""
    lengths = torch.randint(20, 301, (1000,))
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    query, vectors = torch.randn(32, 128).to(dtype), torch.randn(int(starts[-1]), 128).to(dtype)
    real = torch.arange(300) < lengths[:, None]
    padded = torch.zeros(1000, 300, 128, dtype=dtype)
    padded[real] = vectors

    def ours() -> torch.Tensor:
        return maxsim(query, torch.tensor([0, 32]), vectors, starts)[0]

    def peer() -> torch.Tensor:
        scores = torch.einsum("qd,ntd->nqt", query, padded).masked_fill_(~real[:, None], float("-inf"))
        return scores.amax(2).float().sum(1)

    found = compared({"ours": ours, "einsum": peer}, "einsum")
    found["difference"] = _relative(ours(), peer().double())
    return found


def compressed(bits: int) -> dict[str, Any]:
    """One question of 32 token vectors with 1,600 candidates in codes: centroids and all. Beside one product over the vectors, decompressed and padded before,
    and beside the same with decompression."""
    lengths = torch.randint(60, 191, (1600,))
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    levels, steps = torch.randint(0, 256, (16_384, 128)).to(torch.uint8), torch.rand(16_384) / 500 + 1e-4
    runs, scales = torch.randint(0, 16_384, (int(starts[-1]),)), torch.randint(40, 256, (int(starts[-1]),)).to(torch.uint8)
    codes = torch.randint(0, 256, (len(runs), row_bytes(128, bits)), dtype=torch.uint8)
    coded = Coded(starts, starts, runs.to(torch.uint16), torch.ones_like(scales), codes, scales, 1e-4, bits, 128)
    query, rows = torch.nn.functional.normalize(torch.randn(32, 128), dim=1), torch.arange(1600)
    real = torch.arange(190) < lengths[:, None]
    padded, middle = torch.zeros(1600, 190, 128), torch.from_numpy(coded.middles)

    def ours() -> torch.Tensor:
        lanes = lanes_of(query)
        return document_scores(lanes, centroid_scores(lanes, levels, steps), coded, rows)

    def decompress() -> None:
        left = (unpacked(codes, 128, bits) - middle) * (scales * coded.scale_unit)[:, None]
        padded[real] = ((levels.float() - 128) * steps[:, None])[runs] + left

    def peer() -> torch.Tensor:
        scores = torch.einsum("qd,ntd->nqt", query, padded).masked_fill_(~real[:, None], float("-inf"))
        return scores.amax(2).sum(1)

    def peer_from_codes() -> torch.Tensor:
        decompress()
        return peer()

    decompress()
    found = compared({"ours": ours, "einsum": peer, "decompression and einsum": peer_from_codes}, "einsum")
    found["difference"] = _relative(ours(), peer().double())
    found["bytes"] = {"ours": codes.numel() + scales.numel() + 2 * len(runs), "einsum": 4 * padded.numel()}
    return found


def ingest(dtype: torch.dtype) -> dict[str, Any]:
    """Eight chunks behind a beginning of 64 tokens: rotated, attended, kept; beside rotation by torch and its attention with a mask, chunk by chunk."""
    num_before, tokens = 64, PIECES * PIECE_TOKENS
    queries, keys = torch.randn(HEADS, tokens, DIM).to(dtype), torch.randn(KEY_HEADS, tokens, DIM).to(dtype)
    values, old = torch.randn(KEY_HEADS, tokens, DIM).to(dtype), torch.randn(2, KEY_HEADS, num_before, DIM).to(dtype)
    borders = list(range(0, tokens + 1, PIECE_TOKENS))
    angles = torch.rand(num_before + PIECE_TOKENS, DIM // 2) * 100
    turns = (angles.cos(), angles.sin())
    into = room_for(KEY_HEADS, PIECES, tokens, DIM, DIM, "plain", dtype)
    kept = room_for(KEY_HEADS, PIECES, tokens, DIM, DIM, "plain", dtype)
    mask = torch.ones(PIECE_TOKENS, num_before + PIECE_TOKENS, dtype=torch.bool).tril(num_before)

    def ours() -> torch.Tensor:
        return ingest_prefill(queries, keys, values, borders, *turns, "half", into, before=(old[0], old[1]), scale=DIM**-0.5)

    def peer() -> torch.Tensor:
        outs = []
        for first in borders[:-1]:
            rows = slice(first, first + PIECE_TOKENS)
            fresh, asked = (
                rotate_reference(part[:, rows], *(turn[num_before:] for turn in turns), "half") for part in (keys, queries)
            )
            seen, shown = torch.cat([old[0], fresh], 1), torch.cat([old[1], values[:, rows]], 1)
            found = torch.nn.functional.scaled_dot_product_attention(
                asked[None], seen[None], shown[None], attn_mask=mask, enable_gqa=True
            )
            outs.append(found[0].transpose(0, 1))
        kept.keys.copy_(keys)
        kept.values.copy_(values)
        return torch.cat(outs)

    found = compared({"ours": ours, "sdpa": peer}, "sdpa")
    assert _relative(ours(), peer().double()) < 1e-2 and torch.equal(into.keys, kept.keys)
    return found


def together(num_requests: int, dtype: torch.dtype) -> dict[str, Any]:
    """A decoding step of requests with 4,096 common keys and 128 of their own, beside torch's attention request by request."""
    num_common, own = 4096, 128
    buffers = [torch.randn(2, KEY_HEADS, num_common + own, DIM).to(dtype) for _ in range(num_requests)]
    for buffer in buffers:
        buffer[:, :, :num_common] = buffers[0][:, :, :num_common]
    queries = torch.randn(num_requests, HEADS, DIM).to(dtype)
    common = buffers[0][:, :, :num_common]
    keys, values = ([buffer[part, :, num_common:] for buffer in buffers] for part in (0, 1))

    def ours() -> torch.Tensor:
        return cascade_decode(queries, common[0], common[1], keys, values, [own] * num_requests, scale=DIM**-0.5)

    def peer() -> torch.Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        outs = [
            attend(query[None, :, None], buffer[:1], buffer[1:], enable_gqa=True)
            for query, buffer in zip(queries, buffers, strict=True)
        ]
        return torch.cat(outs)[:, :, 0]

    found = compared({"ours": ours, "sdpa": peer}, "sdpa")
    assert _relative(ours(), peer().double()) < 2e-2
    return found


def recomputing(num_requests: int, dtype: torch.dtype) -> dict[str, Any]:
    """Requests of 48 scattered rows over 1,024 keys each, at once; beside torch's attention with a mask, request by request."""
    rows, num_keys = 48, 1024
    kept = [torch.randn(2, KEY_HEADS, num_keys, DIM).to(dtype) for _ in range(num_requests)]
    positions = torch.stack([torch.randperm(num_keys)[:rows].sort().values for _ in kept])
    queries, starts = torch.randn(HEADS, num_requests * rows, DIM).to(dtype), list(range(0, num_requests * rows + 1, rows))
    keys, values, counts = [kv[0] for kv in kept], [kv[1] for kv in kept], [num_keys] * num_requests
    masks = [torch.arange(num_keys) <= some[:, None] for some in positions]

    def ours() -> torch.Tensor:
        more: dict[str, Any] = {"num_keys": counts, "scale": DIM**-0.5}
        return selective_attention_batch(queries, starts, keys, values, positions.flatten(), **more)[0]

    def one_by_one() -> torch.Tensor:
        parts = zip(queries.split(rows, 1), kept, positions, strict=True)
        return torch.cat([selective_attention(q, *kv, some, num_keys=num_keys, scale=DIM**-0.5) for q, kv, some in parts])

    def peer() -> torch.Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        parts = zip(queries.split(rows, 1), kept, masks, strict=True)
        outs = [attend(q[None], kv[:1], kv[1:], attn_mask=mask, enable_gqa=True)[0] for q, kv, mask in parts]
        return torch.cat(outs, 1).transpose(0, 1)

    found = compared({"ours": ours, "ours, one by one": one_by_one, "sdpa": peer}, "sdpa")
    assert _relative(ours(), peer().double()) < 1e-2
    return found


def merging(dtype: torch.dtype) -> dict[str, Any]:
    """Two states of 4,096 tokens, beside a softmax over logarithms and a weighted sum."""
    outs, lses = torch.randn(2, 4096, HEADS, DIM).to(dtype), torch.randn(2, HEADS, 4096)

    def peer() -> torch.Tensor:
        return (lses.softmax(0).transpose(1, 2)[..., None] * outs).sum(0).to(dtype)

    found = compared({"ours": lambda: merge_states(outs, lses), "torch": peer}, "torch")
    assert _relative(merge_states(outs, lses)[0], peer().double()) < 1e-2
    return found


def rotation(dtype: torch.dtype) -> dict[str, Any]:
    """Queries of 4,096 tokens, beside the same as torch expressions."""
    x, (cos, sin) = torch.randn(HEADS, 4096, DIM).to(dtype), torch.rand(2, 4096, DIM // 2)
    assert torch.equal(rotate(x, cos, sin, "half"), rotate_reference(x, cos, sin, "half"))
    runs = {"ours": lambda: rotate(x, cos, sin, "half"), "torch": lambda: rotate_reference(x, cos, sin, "half")}
    return compared(runs, "torch")


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def layers(case: str, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """What the layers of a network are made of."""
    found = {f"assembly {kind} {case}": assembly(kind, dtype) for kind in ("plain", "int8", "int4")}
    for rows, words in ((NUM_ROWS, "scattered queries"), (NUM_KEYS, "every position"), (1, "decoding")):
        found[f"attention {words} {case}"] = attention(rows, dtype)
    found[f"attention decoding, heads of 128 {case}"] = attention(1, dtype, 128)
    found[f"attention within texts {case}"] = within_texts(dtype)
    found[f"late interaction {case}"] = late_interaction(dtype)
    if dtype == torch.float32:
        found |= {f"late interaction in {bits} bits {case}": compressed(bits) for bits in (2, 4, 5)}
    return found


def requests(case: str, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """What serving many requests is made of."""
    return {
        f"chunks behind one beginning {case}": ingest(dtype),
        f"8 requests decode together {case}": together(8, dtype),
        f"8 requests recompute together {case}": recomputing(8, dtype),
        f"two states merged {case}": merging(dtype),
        f"rotation {case}": rotation(dtype),
    }


PARTS = {"layers": ("kernels_cpu", layers), "requests": ("kernels_cpu_requests", requests)}


def main() -> None:
    """Prints and records the figures, a file a part; see ``record.of_processor`` for their names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="only one of them")
    options = parser.parse_args()
    torch.manual_seed(0)
    shapes = {"layers": LAYERS, "key_heads": KEY_HEADS, "heads": HEADS, "dim": DIM, "keys": NUM_KEYS, "scattered_rows": NUM_ROWS}
    ways = {word: f"attention in {word}: {processor_way(dtype, DIM).why}" for word, dtype in DTYPES.items()} | {"codes": explain()}
    note = "cores shared with other work: with two threads the peers wait at barriers, with one they do not"
    for name, measured in (PARTS[part] for part in ([options.part] if options.part else PARTS)):
        load_before, cases = os.getloadavg(), dict[str, dict[str, Any]]()
        with torch.inference_mode():
            for threads in THREADS:
                torch.set_num_threads(threads)
                for word, dtype in DTYPES.items():
                    cases |= measured(f"{word}, threads: {threads}", dtype)
        for title, figures in cases.items():
            ratios = figures["peer_over_ours"], figures["peer_over_ours_by_processor"]
            print("{:6.2f} x wall {:6.2f} x processor ".format(*ratios), title, figures["milliseconds"], flush=True)
        loads = {"before": load_before, "after": os.getloadavg()}
        write_result(
            of_processor(name),
            {"rounds": ROUNDS, "shapes": shapes, "load_average": loads, "note": note, "ways": ways, "cases": cases},
        )


if __name__ == "__main__":
    main()

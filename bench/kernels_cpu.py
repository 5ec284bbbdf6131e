"""The key-value kernels on a processor beside what torch offers for the same: milliseconds by turns, ratios, errors against float64.

    python bench/kernels_cpu.py

Shapes: 16 layers, 4 key heads of 64 (assembly of 8 pieces of 512 tokens); 16 query heads, 4,128 keys (attention); 12 heads of 64, 64 texts of 8 to
256 tokens (attention within texts); 32 query tokens, 1,000 documents of 20 to 300 tokens of 128 dimensions (late interaction). Peers: assembly as
torch expressions; ``scaled_dot_product_attention`` with a mask tensor, causal, with one query, and over padded texts; ``einsum`` over padded documents. Every figure is the median of runs that take
turns, with one thread and with two; the load of the machine before and after stands in the result: on shared cores torch's operations of two
threads wait for each other, by whole time slices, and only the figures with one thread compare the loops themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import alternating, write_result
from rag.kernels.assemble import LayerKV, assemble_layers, assemble_reference
from rag.kernels.maxsim import maxsim
from rag.kernels.quantise import layer_of, quantise_kv
from rag.kernels.selective_attention import selective_attention
from rag.kernels.varlen_attention import varlen_attention

LAYERS, KEY_HEADS, HEADS, DIM = 16, 4, 16, 64
PIECES, PIECE_TOKENS, NUM_KEYS, NUM_ROWS = 8, 512, 4128, 650
ROUNDS = 5
THREADS = (1, 2)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compared(runs: Mapping[str, Callable[[], Any]], peer: str) -> dict[str, Any]:
    """Milliseconds of each, and how many times as long the peer takes."""
    seconds = alternating(runs, ROUNDS)
    ours = next(name for name in runs if name != peer)
    return {
        "milliseconds": {name: round(1000 * value, 3) for name, value in seconds.items()},
        "peer_over_ours": round(seconds[peer] / seconds[ours], 2),
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
    buffers = [torch.zeros(LAYERS, KEY_HEADS, NUM_KEYS, DIM, dtype=dtype) for _ in range(4)]
    turns = (angles.cos(), angles.sin(), "half")
    runs = {
        "ours": lambda: assemble_layers(pieces, starts, *turns, buffers[0], buffers[1]),  # type: ignore[arg-type]
        "torch": lambda: assemble_reference(pieces, starts, *turns, buffers[2], buffers[3]),  # type: ignore[arg-type]
    }
    found = compared(runs, "torch")
    assert torch.equal(buffers[0], buffers[2]) and torch.equal(buffers[1], buffers[3])
    return found


def attention(rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """``rows`` scattered queries (all positions where it is the number of keys), beside torch's attention."""
    queries = torch.randn(HEADS, rows, DIM).to(dtype)
    keys, values = torch.randn(2, KEY_HEADS, NUM_KEYS, DIM).to(dtype)
    positions = torch.randperm(NUM_KEYS)[:rows].sort().values if rows > 1 else torch.tensor([NUM_KEYS - 1])
    mask = torch.arange(NUM_KEYS) <= positions[:, None]
    how: dict[str, Any] = {"is_causal": True} if rows == NUM_KEYS else {} if rows == 1 else {"attn_mask": mask}

    def ours() -> torch.Tensor:
        return selective_attention(queries, keys, values, positions, num_keys=NUM_KEYS, scale=DIM**-0.5)

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


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def main() -> None:
    """Prints and records the figures."""
    torch.manual_seed(0)
    load_before = os.getloadavg()
    result: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for threads in THREADS:
            torch.set_num_threads(threads)
            for name, dtype in DTYPES.items():
                case = f"{name}, threads: {threads}"
                for kind in ("plain", "int8", "int4"):
                    result[f"assembly {kind} {case}"] = assembly(kind, dtype)
                for rows, words in ((NUM_ROWS, "scattered queries"), (NUM_KEYS, "every position"), (1, "decoding")):
                    result[f"attention {words} {case}"] = attention(rows, dtype)
                result[f"attention within texts {case}"] = within_texts(dtype)
                result[f"late interaction {case}"] = late_interaction(dtype)
    for title, figures in result.items():
        print(f"{figures['peer_over_ours']:6.2f} x  {title}  {figures['milliseconds']}")
    shapes = {"layers": LAYERS, "key_heads": KEY_HEADS, "heads": HEADS, "dim": DIM, "keys": NUM_KEYS, "scattered_rows": NUM_ROWS}
    loads = {"before": load_before, "after": os.getloadavg()}
    note = "cores shared with other work: with two threads the peers wait at barriers, with one they do not"
    write_result("kernels_cpu", {"rounds": ROUNDS, "shapes": shapes, "load_average": loads, "note": note, "cases": result})


if __name__ == "__main__":
    main()

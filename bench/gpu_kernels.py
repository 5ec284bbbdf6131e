"""The Triton kernels on a GPU: right first, then how fast, beside torch's own and beside what the device could do at best.

    python bench/gpu_kernels.py                       # on a GPU; `make bench-gpu` runs this
    python bench/gpu_kernels.py --device cpu --small  # the same script without one, to see that it runs; writes nothing

Every case is first compared with its reference in float64 and is not timed if it is wrong. Times are medians of CUDA events over rounds in
which ours and the peer take turns, behind a flush of the device's cache. ``of_ceiling`` is the share of what this device does on the resource
that bounds the case: bytes per second of a large copy, or operations per second of a large matrix product in bfloat16, both measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import write_result
from rag.kernels.assemble import LayerKV, assemble_layers, assemble_reference
from rag.kernels.cascade_decode import cascade_decode, cascade_decode_reference
from rag.kernels.choose import choose
from rag.kernels.column_mass import column_mass, column_mass_reference
from rag.kernels.deviation import kv_deviation, kv_deviation_reference
from rag.kernels.ingest_prefill import ingest_prefill, ingest_prefill_reference, room_for
from rag.kernels.maxsim import maxsim, maxsim_reference
from rag.kernels.merge_states import merge_states, merge_states_reference
from rag.kernels.quantise import layer_of, quantise_kv, quantise_reference
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.token_logprob import token_logprob, token_logprob_reference
from rag.kernels.warp_score import (
    CentroidScores,
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
from rag.kernels.warp_score_codes import Coded, row_bytes, unpacked
from rag.kernels.window_scores import window_scores, window_scores_reference

FLUSH_BYTES = 256 << 20
HEADS, KEY_HEADS, DIM = 32, 8, 128


@dataclass(frozen=True)
class Case:
    """``ours`` against ``peer`` (or nothing), checked by ``error`` (relative, to stay below ``limit``); what it must move and compute."""

    name: str
    ours: Callable[[], Any]
    peer: Callable[[], Any] | None
    error: Callable[[], float]
    limit: float
    num_bytes: float
    num_flop: float


class Bench:
    """A device, how to time on it, and its ceilings."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = torch.device(device), rounds
        self._flush = torch.empty(FLUSH_BYTES if self.device.type == "cuda" else 1024, dtype=torch.uint8, device=device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """One call, with a cold cache."""
        self._flush.zero_()
        if self.device.type != "cuda":
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def medians(self, *runs: Callable[[], Any]) -> list[float]:
        """Of runs that take turns; each is warmed first."""
        for run in runs:
            run()
        taken: list[list[float]] = [[] for _ in runs]
        for _ in range(self.rounds):
            for run, seconds in zip(runs, taken, strict=True):
                seconds.append(self.seconds(run))
        return [statistics.median(seconds) for seconds in taken]

    def ceilings(self, small: bool) -> tuple[float, float]:
        """Bytes per second of a copy (read and written) and operations per second of a bfloat16 product."""
        source = torch.empty((1 if small else 1024) << 20, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        side = 256 if small else 8192
        a, b = torch.randn(2, side, side, device=self.device).bfloat16()
        copied, multiplied = self.medians(lambda: target.copy_(source), lambda: a @ b)
        return 2 * source.numel() / copied, 2 * side**3 / multiplied

    def normal(self, *shape: int) -> Tensor:
        """Bfloat16 numbers, drawn in memory so that every device has the same."""
        return torch.randn(*shape).to(self.device, torch.bfloat16)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def attention_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Scattered rows, all rows, decoding; the peer is torch's attention, with a mask tensor where rows are scattered."""
    num_keys = 256 if small else 8192
    keys, values = bench.normal(KEY_HEADS, num_keys, DIM), bench.normal(KEY_HEADS, num_keys, DIM)
    for words, rows in (("15 % scattered rows", num_keys * 15 // 100), ("every row", num_keys), ("decoding", 1)):
        queries = bench.normal(HEADS, rows, DIM)
        positions = torch.randperm(num_keys)[:rows].sort().values if rows > 1 else torch.tensor([num_keys - 1])
        mask = (torch.arange(num_keys) <= positions[:, None]).to(bench.device)
        where = positions.to(bench.device)
        how: dict[str, Any] = {"is_causal": True} if rows == num_keys else {} if rows == 1 else {"attn_mask": mask}

        def ours(queries: Tensor = queries, where: Tensor = where) -> Tensor:
            return selective_attention(queries, keys, values, where, num_keys=num_keys, scale=DIM**-0.5)

        def peer(queries: Tensor = queries, how: dict[str, Any] = how) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(queries[None], keys[None], values[None], enable_gqa=True, **how)

        def error(queries: Tensor = queries, where: Tensor = where, ours: Callable[[], Tensor] = ours) -> float:
            wide = (queries.double(), keys.double(), values.double())
            expected, _ = selective_attention_reference(*wide, where, num_keys=num_keys, scale=DIM**-0.5)
            return relative(ours(), expected)

        seen = float((positions + 1).sum())
        moved = 2 * (2 * keys.numel() + 2 * queries.numel())
        yield Case(f"attention, {words}", ours, peer, error, 6e-3, moved, 4 * HEADS * DIM * seen)

    asked = bench.normal(HEADS, 64, DIM)
    last = torch.arange(num_keys - 64, num_keys, device=bench.device)

    def mass() -> Tensor:
        return column_mass(asked, keys, last, num_keys=num_keys, scale=DIM**-0.5)

    def dense() -> Tensor:
        scores = (asked.view(KEY_HEADS, -1, DIM) @ keys.transpose(1, 2)).float() * DIM**-0.5
        hidden = torch.arange(num_keys, device=bench.device) > last.repeat(HEADS // KEY_HEADS)[:, None]
        return scores.masked_fill(hidden, float("-inf")).softmax(-1).sum((0, 1))

    expected = column_mass_reference(asked.double(), keys.double(), last, num_keys=num_keys, scale=DIM**-0.5)
    yield Case(
        "column mass of 64 rows", mass, dense, lambda: relative(mass(), expected), 1e-4, 4 * keys.numel(),
        4 * HEADS * DIM * 64 * num_keys,
    )  # fmt: skip


def prompt_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Chunks behind one beginning with codes written, decoding together, merged states, scores of a window."""
    length, num_chunks, num_before = (24, 3, 8) if small else (512, 64, 64)
    tokens, kind = length * num_chunks, torch.bfloat16
    queries, keys, values = (
        bench.normal(HEADS, tokens, DIM),
        bench.normal(KEY_HEADS, tokens, DIM),
        bench.normal(KEY_HEADS, tokens, DIM),
    )
    before = (bench.normal(KEY_HEADS, num_before, DIM), bench.normal(KEY_HEADS, num_before, DIM))
    angles = torch.rand(num_before + length, DIM // 2) * 100
    turns, borders = (angles.cos().to(bench.device), angles.sin().to(bench.device)), list(range(0, tokens + 1, length))
    into, other = (room_for(KEY_HEADS, num_chunks, tokens, DIM, DIM, "int8", kind, device=bench.device) for _ in range(2))

    def ingest() -> Tensor:
        return ingest_prefill(queries, keys, values, borders, *turns, "half", into, before=before, scale=DIM**-0.5)

    def ingest_error() -> float:
        expected = ingest_prefill_reference(queries, keys, values, borders, *turns, "half", other, before=before, scale=DIM**-0.5)
        found = ingest()
        return max(relative(found, expected), float((into.keys != other.keys).double().mean()))

    visible = num_chunks * length * (num_before + (length + 1) / 2)
    moved = 2 * (2 * queries.numel() + 2 * keys.numel()) + 2 * keys.numel()
    yield Case(f"{num_chunks} chunks of {length}, int8 kept", ingest, None, ingest_error, 6e-3, moved, 4 * HEADS * DIM * visible)

    num_requests, common, own = (3, 64, 16) if small else (64, 8192, 128)
    shared = (bench.normal(KEY_HEADS, common, DIM), bench.normal(KEY_HEADS, common, DIM))
    asked = bench.normal(num_requests, HEADS, DIM)
    kept = [bench.normal(2, KEY_HEADS, own, DIM) for _ in range(num_requests)]
    step = (asked, *shared, [kv[0] for kv in kept], [kv[1] for kv in kept], [own] * num_requests)
    whole = [torch.cat([torch.stack(shared), kv], 2) for kv in kept]

    def cascade() -> Tensor:
        return cascade_decode(*step, scale=DIM**-0.5)

    def apart() -> list[Tensor]:
        attend = torch.nn.functional.scaled_dot_product_attention
        return [attend(query[None, :, None], kv[:1], kv[1:], enable_gqa=True) for query, kv in zip(asked, whole, strict=True)]

    moved = 2 * 2 * KEY_HEADS * DIM * (common + num_requests * own)
    yield Case(
        f"{num_requests} requests decode together", cascade, apart,
        lambda: relative(cascade(), cascade_decode_reference(*step, scale=DIM**-0.5)), 6e-3, moved,
        4 * HEADS * DIM * num_requests * (common + own),
    )  # fmt: skip

    outs, lses = bench.normal(2, tokens, HEADS, DIM), torch.randn(2, HEADS, tokens).to(bench.device)

    def merge() -> Tensor:
        return merge_states(outs, lses)[0]

    def expression() -> Tensor:
        return (lses.softmax(0).transpose(1, 2)[..., None] * outs).sum(0).bfloat16()

    yield Case(
        "two states merged",
        merge,
        expression,
        lambda: relative(merge(), merge_states_reference(outs, lses)[0]),
        6e-3,
        6 * outs[0].numel(),
        0,
    )

    last = torch.arange(common - 16, common, device=bench.device)
    window = bench.normal(HEADS, 16, DIM)
    _, known = selective_attention(window, *shared, last, num_keys=common, scale=DIM**-0.5, return_lse=True)

    def scores() -> Tensor:
        return window_scores(window, shared[0], last, known, num_keys=common, scale=DIM**-0.5)

    yield Case(
        "scores of a window of 16", scores, None,
        lambda: relative(scores(), window_scores_reference(window, shared[0], last, known, num_keys=common, scale=DIM**-0.5)),
        1e-4, 2 * shared[0].numel(), 2.0 * HEADS * DIM * 16 * common,
    )  # fmt: skip


def storage_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Assembly of eight pieces from plain numbers and codes, codes themselves, deviation."""
    layers, tokens = (2, 32) if small else (32, 1024)
    angles = torch.rand(8 * tokens, DIM // 2) * 100
    turns = (angles.cos().to(bench.device), angles.sin().to(bench.device), "half")
    starts = [tokens * number for number in range(8)]
    keys, values = bench.normal(layers, KEY_HEADS, tokens, DIM), bench.normal(layers, KEY_HEADS, tokens, DIM)
    for kind, width in (("plain", 2.0), ("int8", 1.0), ("int4", 0.5)):
        held = LayerKV(keys, values) if kind == "plain" else quantise_kv(keys, values, kind)  # type: ignore[arg-type]
        pieces = [[layer_of(held, layer) for layer in range(layers)]] * 8
        shape = (layers, KEY_HEADS, 8 * tokens, DIM)
        buffers = [torch.zeros(shape, dtype=torch.bfloat16, device=bench.device) for _ in range(4)]

        def ours(pieces: Any = pieces, buffers: Any = buffers) -> None:
            assemble_layers(pieces, starts, *turns, buffers[0], buffers[1])  # type: ignore[arg-type]

        def peer(pieces: Any = pieces, buffers: Any = buffers) -> None:
            assemble_reference(pieces, starts, *turns, buffers[2], buffers[3])  # type: ignore[arg-type]

        def error(ours: Any = ours, peer: Any = peer, buffers: Any = buffers) -> float:
            ours()
            peer()
            return max(relative(buffers[0], buffers[2]), relative(buffers[1], buffers[3]))

        moved = 2 * buffers[0].numel() * (width + 2)
        yield Case(f"assembly from {kind}", ours, peer, error, 1e-6, moved, 0)
    for kind in ("int8", "int4"):

        def code(kind: Any = kind) -> LayerKV:
            return quantise_kv(keys, values, kind)

        def plain(kind: Any = kind) -> LayerKV:
            return quantise_reference(keys, values, kind)

        def differing(code: Any = code, plain: Any = plain) -> float:
            return max(float((a != b).double().mean()) for a, b in zip(code()[:2], plain()[:2], strict=True))

        yield Case(f"codes {kind}", code, plain, differing, 1e-6, 2 * keys.numel() * (2 * 2 + (1 if kind == "int8" else 0.5)), 0)
    fresh = (bench.normal(*keys.shape[1:]), bench.normal(*keys.shape[1:]))
    stale = (keys[0], values[0])

    def deviate() -> Tensor:
        return kv_deviation(*fresh, *stale, part="kv")

    yield Case(
        "deviation", deviate, lambda: kv_deviation_reference(*fresh, *stale, "kv"),
        lambda: relative(deviate(), kv_deviation_reference(*fresh, *stale, "kv")), 1e-5, 8 * keys[0].numel(), 0,
    )  # fmt: skip


def search_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Late interaction over documents of 60 to 300 tokens, and log-probabilities of words; peers are torch expressions."""
    num_documents, vocabulary, rows, width = (40, 500, 16, 64) if small else (10_000, 128_256, 512, 4096)
    lengths = torch.randint(60, 300, (num_documents,))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    vectors = torch.nn.functional.normalize(bench.normal(int(starts[-1]), DIM).float(), dim=1).bfloat16()
    queries, query_starts = bench.normal(32, DIM), torch.tensor([0, 32], device=bench.device)
    scales = vectors.float().abs().amax(1) / 127
    coded = (vectors.float() / scales[:, None]).round().to(torch.int8)
    borders = starts.to(bench.device)
    segment = torch.repeat_interleave(torch.arange(num_documents), lengths).to(bench.device)

    def products() -> Tensor:
        dots = (vectors @ queries.T).float()
        best = torch.full((num_documents, 32), float("-inf"), device=bench.device)
        return best.scatter_reduce_(0, segment[:, None].expand(-1, 32), dots, "amax").sum(1)

    flop = 2.0 * len(vectors) * 32 * DIM
    for name, stored, factor in (("bfloat16", vectors, None), ("int8", coded, scales)):

        def ours(stored: Tensor = stored, factor: Tensor | None = factor) -> Tensor:
            return maxsim(queries, query_starts, stored, borders, factor)

        def error(ours: Any = ours, stored: Tensor = stored, factor: Tensor | None = factor) -> float:
            some = slice(0, int(starts[20]))
            part = None if factor is None else factor[some]
            expected = maxsim_reference(queries, query_starts, stored[some], borders[:21], part)
            return relative(ours()[:, :20], expected)

        size = stored.element_size() * stored.numel() + (4 * len(stored) if factor is not None else 0)
        yield Case(f"maxsim {name}, {num_documents} documents", ours, products, error, 2e-3, size, flop)
    hidden, weight = bench.normal(rows, width), bench.normal(vocabulary, width) * width**-0.5
    targets = torch.randint(0, vocabulary, (rows,)).to(bench.device)

    def logprob() -> Tensor:
        return token_logprob(hidden, weight, targets)

    def logits() -> Tensor:
        return (hidden @ weight.T).float().log_softmax(1).gather(1, targets[:, None])

    yield Case(
        f"log-probabilities of {rows} words among {vocabulary}", logprob, logits,
        lambda: relative(logprob()[:8], token_logprob_reference(hidden[:8], weight, targets[:8])), 2e-3,
        2 * weight.numel() + 2 * hidden.numel(), 2.0 * rows * vocabulary * width,
    )  # fmt: skip


def compressed_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """The steps of a search in 2.5 million coded tokens of 20,000 documents; peers decompress or gather with torch."""
    num_documents, num_centroids, num_candidates = (60, 256, 20) if small else (20_000, 16_384, 1_600)
    device = bench.device
    lengths = torch.randint(60, 190, (num_documents,))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    num_tokens = int(starts[-1])
    levels = torch.randint(0, 256, (num_centroids, DIM)).to(torch.uint8).to(device)
    steps = (torch.rand(num_centroids) / 500 + 1e-4).to(device)
    centroid = torch.randint(0, num_centroids, (num_tokens,)).to(torch.uint16)
    query = torch.nn.functional.normalize(torch.randn(32, DIM), dim=1).to(device)
    lanes = lanes_of(query)
    ones, scales = torch.ones(num_tokens, dtype=torch.uint8), torch.randint(40, 256, (num_tokens,)).to(torch.uint8)
    scores = centroid_scores(lanes, levels, steps)
    vectors = ((levels.float() - 128) * steps[:, None]).bfloat16()

    def centroid_error() -> float:
        return relative(centroid_scores(lanes, levels, steps).scores, centroid_scores_reference(lanes, levels, steps).scores)

    flop = 2.0 * num_centroids * 32 * DIM
    yield Case(
        f"scores and bytes of {num_centroids} centroids", lambda: centroid_scores(lanes, levels, steps),
        lambda: vectors @ query.bfloat16().T, centroid_error, 1e-5, levels.numel() + 9 * scores.scores.numel(), flop,
    )  # fmt: skip
    runs, borders = centroid.to(device), starts.to(device)
    segment = torch.repeat_interleave(torch.arange(num_documents), lengths).to(device)

    def gathered() -> Tensor:
        best = torch.zeros(num_documents, 32, dtype=torch.uint8, device=device)
        return best.scatter_reduce_(0, segment[:, None].expand(-1, 32), scores.table[runs.int()], "amax").sum(1)

    def interaction_error() -> float:
        return relative(interaction(scores.table, runs, borders)[:50], interaction_reference(scores.table, runs, borders[:51]))

    yield Case(
        f"centroid interaction of {num_documents} documents", lambda: interaction(scores.table, runs, borders), gathered,
        interaction_error, 0.0, 2 * num_tokens + 8 * num_documents, 0.0,
    )  # fmt: skip
    sums = interaction(scores.table, runs, borders)
    yield Case(
        f"best 100 of {num_documents}", lambda: top_rows(sums, 100, 255 * 32), lambda: torch.topk(sums, min(100, num_documents)),
        lambda: relative(top_rows(sums, 100, 255 * 32), top_rows_reference(sums, 100)), 0.0, 4 * num_documents, 0.0,
    )  # fmt: skip
    rows = torch.randperm(num_documents)[:num_candidates].to(device)
    for bits in (2, 4, 5, 8):
        codes = torch.randint(0, 256, (num_tokens, row_bytes(DIM, bits)), dtype=torch.uint8)
        arrays = (tensor.to(device) for tensor in (starts, starts, centroid, ones, codes, scales))
        coded = Coded(*arrays, 1e-4, bits, DIM, runs)
        read = float(lengths[rows.cpu()].sum())
        yield _codes_case(f"{int(read)} tokens in {bits} bits", (lanes, scores, coded, rows, vectors, query), read)


def _codes_case(title: str, given: tuple[Any, CentroidScores, Coded, Tensor, Tensor, Tensor], num_read: float) -> Case:
    lanes, scores, coded, rows, vectors, query = given
    taken = torch.cat([torch.arange(coded.token_starts[row], coded.token_starts[row + 1]) for row in rows.tolist()]).to(rows.device)
    lengths = coded.token_starts[rows + 1] - coded.token_starts[rows]
    place = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
    zero, asked = torch.from_numpy(coded.middles).to(rows.device), query.bfloat16().T

    def decompressed() -> Tensor:
        left = (unpacked(coded.codes[taken], DIM, coded.bits) - zero) * (coded.scales[taken].float() * coded.scale_unit)[:, None]
        assert coded.of_token is not None
        dots = ((vectors[coded.of_token[taken].int()] + left.bfloat16()) @ asked).float()
        best = torch.full((len(rows), 32), float("-inf"), device=rows.device)
        return best.scatter_reduce_(0, place[:, None].expand(-1, 32), dots, "amax").sum(1)

    def error() -> float:
        return relative(
            document_scores(lanes, scores, coded, rows)[:20], document_scores_reference(lanes, scores, coded, rows[:20])
        )

    size = num_read * (coded.codes.shape[1] + 3)
    return Case(
        title, lambda: document_scores(lanes, scores, coded, rows), decompressed, error, 1e-5, size, 2 * num_read * 32 * DIM
    )


def figures(bench: Bench, case: Case, ceilings: tuple[float, float]) -> dict[str, Any]:
    """Error, milliseconds, ratio and share of the ceiling of one case; without times if it is wrong."""
    error = case.error()
    found: dict[str, Any] = {"relative_error": error, "right": error <= case.limit}
    if not found["right"]:
        return found
    ours, *peer = bench.medians(case.ours, *([case.peer] if case.peer else []))
    bound = max(case.num_bytes / ceilings[0], case.num_flop / ceilings[1])
    found |= {"milliseconds": round(1000 * ours, 4), "of_ceiling": round(bound / ours, 3)}
    found["bound_by"] = "bytes" if case.num_bytes / ceilings[0] >= case.num_flop / ceilings[1] else "operations"
    if peer:
        found |= {"peer_milliseconds": round(1000 * peer[0], 4), "peer_over_ours": round(peer[0] / ours, 2)}
    return found


def main() -> int:
    """Prints a line a case and writes bench/results/gpu_kernels.json. Exit code 1 if a kernel is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="shapes that a processor can do")
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured (the kernels' correctness without one: pytest tests/kernels)")
        return 0
    torch.manual_seed(0)
    bench = Bench(options.device, options.rounds)
    chosen = choose(torch.empty(0, dtype=torch.bfloat16, device=options.device))
    with torch.inference_mode():
        ceilings = bench.ceilings(options.small)
        print(f"{chosen.name} ({chosen.why}); copies {ceilings[0] / 1e9:.0f} GB/s, products {ceilings[1] / 1e12:.1f} TFLOP/s")
        cases: dict[str, dict[str, Any]] = {}
        for made in (attention_cases, prompt_cases, storage_cases, search_cases, compressed_cases):
            for case in made(bench, options.small):
                cases[case.name] = figures(bench, case, ceilings)
                print(f"{case.name}: {cases[case.name]}", flush=True)
    wrong = [name for name, told in cases.items() if not told["right"]]
    if options.device == "cuda":
        device = torch.cuda.get_device_name()
        told = {"copy_bytes_per_second": ceilings[0], "bfloat16_flop_per_second": ceilings[1]}
        print(
            write_result("gpu_kernels", {"device": device, "rounds": options.rounds, "ceilings": told, "cases": cases}, ["triton"])
        )
    for name in wrong:
        print(f"wrong: {name}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

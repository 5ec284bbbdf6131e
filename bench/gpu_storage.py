"""Stored keys and values, late interaction and searches in codes on a GPU as cases to check and time. See ``gpu_kernels``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.gpu_anchors import compiled, flash_maxsim
from bench.gpu_timing import DIM, KEY_HEADS, Bench, Case, relative
from rag.kernels.assemble import LayerKV, assemble_layers, assemble_reference
from rag.kernels.deviation import kv_deviation, kv_deviation_reference
from rag.kernels.maxsim import Maxima, maxsim, maxsim_reference, maxsim_rows
from rag.kernels.quantise import layer_of, quantise_kv, quantise_reference
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
        anchors = {"torch": lambda peer=peer: peer, "torch.compile": lambda peer=peer: compiled(peer)}
        yield Case(f"assembly from {kind}", ours, error, 1e-6, moved, 0, anchors)
    for kind in ("int8", "int4"):

        def code(kind: Any = kind) -> LayerKV:
            return quantise_kv(keys, values, kind)

        def plain(kind: Any = kind) -> LayerKV:
            return quantise_reference(keys, values, kind)

        def differing(code: Any = code, plain: Any = plain) -> float:
            return max(float((a != b).double().mean()) for a, b in zip(code()[:2], plain()[:2], strict=True))

        anchors = {"torch": lambda plain=plain: plain, "torch.compile": lambda plain=plain: compiled(plain)}
        yield Case(f"codes {kind}", code, differing, 1e-6, 2 * keys.numel() * (2 * 2 + (1 if kind == "int8" else 0.5)), 0, anchors)
    fresh = (bench.normal(*keys.shape[1:]), bench.normal(*keys.shape[1:]))
    stale = (keys[0], values[0])

    def deviate() -> Tensor:
        return kv_deviation(*fresh, *stale, part="kv")

    def expression() -> Tensor:
        pairs = zip(fresh, stale, strict=True)
        return torch.stack([(new.float() - old.float()).square().sum((0, 2)) for new, old in pairs]).sum(0)

    yield Case(
        "deviation", deviate, lambda: relative(deviate(), kv_deviation_reference(*fresh, *stale, "kv")), 1e-5, 8 * keys[0].numel(), 0,
        {"torch": lambda: expression, "torch.compile": lambda: compiled(expression)},
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
        anchors: dict[str, Any] = {"torch": lambda: products, "torch.compile": lambda: compiled(products)}
        if factor is None:
            anchors["flash-maxsim"] = partial(flash_maxsim, queries, vectors, borders, 300)
        yield Case(f"maxsim {name}, {num_documents} documents", ours, error, 2e-3, size, flop, anchors)

    def nearest() -> Maxima:
        return maxsim_rows(queries, query_starts, vectors, borders)

    def nearest_error() -> float:
        """The scores of the rows that are named, beside the true ones: of nearly equal rows either may be named."""
        found, some = nearest(), slice(0, int(starts[20]))
        named = (vectors[found.rows[:, :20].T].double() * queries.double()).sum((1, 2))
        return relative(named.float()[None], maxsim_reference(queries, query_starts, vectors[some], borders[:21]))

    yield Case(
        f"maxsim with rows, {num_documents} documents", nearest, nearest_error, 2e-3,
        2 * vectors.numel() + 8 * 32 * num_documents, flop, {"torch": lambda: products, "torch.compile": lambda: compiled(products)},
    )  # fmt: skip
    hidden, weight = bench.normal(rows, width), bench.normal(vocabulary, width) * width**-0.5
    targets = torch.randint(0, vocabulary, (rows,)).to(bench.device)

    def logprob() -> Tensor:
        return token_logprob(hidden, weight, targets)

    def logits() -> Tensor:
        found: Tensor = (hidden @ weight.T).float().log_softmax(1).gather(1, targets[:, None])
        return found

    yield Case(
        f"log-probabilities of {rows} words among {vocabulary}", logprob,
        lambda: relative(logprob()[:8], token_logprob_reference(hidden[:8], weight, targets[:8])), 2e-3,
        2 * weight.numel() + 2 * hidden.numel(), 2.0 * rows * vocabulary * width,
        {"torch": lambda: logits, "torch.compile": lambda: compiled(logits)},
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
        centroid_error, 1e-5, levels.numel() + 9 * scores.scores.numel(), flop, {"one product": lambda: lambda: vectors @ query.bfloat16().T},
    )  # fmt: skip
    runs, borders = centroid.to(device), starts.to(device)
    segment = torch.repeat_interleave(torch.arange(num_documents), lengths).to(device)

    def gathered() -> Tensor:
        best = torch.zeros(num_documents, 32, dtype=torch.uint8, device=device)
        return best.scatter_reduce_(0, segment[:, None].expand(-1, 32), scores.table[runs.int()], "amax").sum(1)

    def interaction_error() -> float:
        return relative(interaction(scores.table, runs, borders)[:50], interaction_reference(scores.table, runs, borders[:51]))

    yield Case(
        f"centroid interaction of {num_documents} documents", lambda: interaction(scores.table, runs, borders),
        interaction_error, 0.0, 2 * num_tokens + 8 * num_documents, 0.0,
        {"torch": lambda: gathered, "torch.compile": lambda: compiled(gathered)},
    )  # fmt: skip
    sums = interaction(scores.table, runs, borders)
    yield Case(
        f"best 100 of {num_documents}", lambda: top_rows(sums, 100, 255 * 32),
        lambda: relative(top_rows(sums, 100, 255 * 32), top_rows_reference(sums, 100)), 0.0, 4 * num_documents, 0.0,
        {"torch.topk": lambda: lambda: torch.topk(sums, min(100, num_documents))},
    )  # fmt: skip
    rows = torch.randperm(num_documents)[:num_candidates].to(device)
    for bits in (2, 4, 5, 8):
        codes = torch.randint(0, 256, (num_tokens, row_bytes(DIM, bits)), dtype=torch.uint8)
        borders, parts = starts.to(device), [tensor.to(device) for tensor in (centroid, ones, codes, scales)]
        coded = Coded(borders, borders, parts[0], parts[1], parts[2], parts[3], 1e-4, bits, DIM, runs)
        read = float(lengths[rows.cpu()].sum())
        yield _codes_case(f"{int(read)} tokens in {bits} bits", (lanes, scores, coded, rows, vectors, query), read)


def _codes_case(title: str, given: tuple[Any, CentroidScores, Coded, Tensor, Tensor, Tensor], num_read: float) -> Case:
    lanes, scores, coded, rows, vectors, query = given
    taken = torch.cat([torch.arange(int(coded.token_starts[row]), int(coded.token_starts[row + 1])) for row in rows.tolist()]).to(
        rows.device
    )
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
        title, lambda: document_scores(lanes, scores, coded, rows), error, 1e-5, size, 2 * num_read * 32 * DIM,
        {"torch": lambda: decompressed, "torch.compile": lambda: compiled(decompressed)},
    )  # fmt: skip

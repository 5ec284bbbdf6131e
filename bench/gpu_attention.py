"""Attention on a GPU as cases to check and time: by position, within texts, of many chunks, of many requests. See ``gpu_kernels``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from bench.gpu_anchors import by_text, compiled, cudnn, flex, sdpa, varlen
from bench.gpu_timing import DIM, HEADS, KEY_HEADS, Bench, Case, Run, relative
from rag.kernels.cascade_decode import cascade_decode, cascade_decode_reference
from rag.kernels.column_mass import column_mass, column_mass_reference
from rag.kernels.ingest_prefill import ingest_prefill, ingest_prefill_reference, room_for
from rag.kernels.merge_states import merge_states, merge_states_reference
from rag.kernels.quantise import quantise_reference
from rag.kernels.rotate import rotate_reference
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.selective_batch import selective_attention_batch, selective_batch_reference
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from rag.kernels.window_scores import window_scores, window_scores_reference


def attention_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Scattered rows, all rows, decoding, beside torch's attentions; where rows are scattered, with a mask tensor or with FlexAttention."""
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

        def error(queries: Tensor = queries, where: Tensor = where, ours: Callable[[], Tensor] = ours) -> float:
            wide = (queries.double(), keys.double(), values.double())
            expected, _ = selective_attention_reference(*wide, where, num_keys=num_keys, scale=DIM**-0.5)
            return relative(ours(), expected)

        seen = float((positions + 1).sum())
        moved = 2 * (2 * keys.numel() + 2 * queries.numel())
        given = (queries, keys, values)
        anchors: dict[str, Any] = {"sdpa": partial(sdpa, *given, **how)}
        if rows == num_keys:
            anchors["cuDNN"] = partial(cudnn, *given, **how)
        if rows > 1:
            anchors["FlexAttention"] = partial(flex, *given, lambda _b, _h, row, key, where=where: where[row] >= key)
        yield Case(f"attention, {words}", ours, error, 6e-3, moved, 4 * HEADS * DIM * seen, anchors)

    asked = bench.normal(HEADS, 64, DIM)
    last = torch.arange(num_keys - 64, num_keys, device=bench.device)

    def mass() -> Tensor:
        return column_mass(asked, keys, last, num_keys=num_keys, scale=DIM**-0.5)

    def dense(asked: Tensor, keys: Tensor) -> Tensor:
        scores = (asked.view(KEY_HEADS, -1, DIM) @ keys.transpose(1, 2)).float() * DIM**-0.5
        hidden = torch.arange(num_keys, device=bench.device) > last.repeat(HEADS // KEY_HEADS)[:, None]
        mass: Tensor = scores.masked_fill(hidden, float("-inf")).softmax(-1).sum((0, 1))
        return mass

    expected = column_mass_reference(asked.double(), keys.double(), last, num_keys=num_keys, scale=DIM**-0.5)
    yield Case(
        "column mass of 64 rows", mass, lambda: relative(mass(), expected), 1e-4, 4 * keys.numel(), 4 * HEADS * DIM * 64 * num_keys,
        {"torch": lambda: partial(dense, asked, keys), "torch.compile": lambda: compiled(dense, asked, keys)},
    )  # fmt: skip


def equal(batch: tuple[Tensor, ...], causal: bool, by_cudnn: bool) -> Run:
    """Texts of one length as a batch ``(texts, H, T, D)``."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    queries, keys, values = batch

    def run() -> Tensor:
        with sdpa_kernel(
            [SDPBackend.CUDNN_ATTENTION]
            if by_cudnn
            else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        ):
            return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)

    return run


def batch_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Requests that recompute some of their rows at the same time, each over keys of its own."""
    num_requests, num_keys, num_rows = (3, 60, 20) if small else (8, 8192, 473)
    kept = [bench.normal(2, KEY_HEADS, num_keys, DIM) for _ in range(num_requests)]
    positions = torch.stack([torch.randperm(num_keys)[:num_rows].sort().values for _ in kept]).to(bench.device)
    queries, starts = bench.normal(HEADS, num_requests * num_rows, DIM), list(range(0, num_requests * num_rows + 1, num_rows))
    given = (queries, starts, [kv[0] for kv in kept], [kv[1] for kv in kept], positions.flatten())
    more: dict[str, Any] = {"num_keys": [num_keys] * num_requests, "scale": DIM**-0.5}

    def ours() -> Tensor:
        return selective_attention_batch(*given, **more)[0]

    def error() -> float:
        keys, values = ([part.double() for part in parts] for parts in given[2:4])
        return relative(ours(), selective_batch_reference(queries.double(), starts, keys, values, given[4], **more)[0])

    def masked() -> Run:
        masks = [torch.arange(num_keys, device=bench.device) <= some[:, None] for some in positions]

        def run() -> list[Tensor]:
            parts = zip(pairwise(starts), kept, masks, strict=True)
            return [sdpa(queries[:, first:last], *kv, attn_mask=mask)() for (first, last), kv, mask in parts]

        return run

    moved = 2 * 2 * KEY_HEADS * DIM * num_keys * num_requests
    yield Case(
        f"{num_requests} requests of {num_rows} scattered rows", ours, error, 6e-3, moved, 4 * HEADS * DIM * float(positions.sum()),
        {"sdpa with a mask, one by one": masked},
    )  # fmt: skip


def text_cases(bench: Bench, small: bool) -> Iterator[Case]:
    """Attention within texts of like and of unlike lengths, as an encoder packs them."""
    for words, lengths in (
        ("texts of 30 to 256 tokens", torch.randint(3 if small else 30, 25 if small else 257, (4 if small else 256,)).tolist()),
        ("texts of 2,048 tokens", [20 if small else 2048] * (2 if small else 16)),
    ):
        borders = [0, *accumulate(lengths)]
        starts, longest = torch.tensor(borders, dtype=torch.int32, device=bench.device), max(lengths)
        queries, keys, values = bench.normal(borders[-1], 3, 12, 64).permute(1, 2, 0, 3)
        for causal in (False, True):
            more: dict[str, Any] = {"longest": longest, "scale": 0.125, "causal": causal}

            def ours(given: Any = (queries, keys, values, starts), more: Any = more) -> Tensor:
                return varlen_attention(*given, **more)

            def error(ours: Any = ours, given: Any = (queries, keys, values), starts: Tensor = starts, more: Any = more) -> float:
                queries, keys, values = (part.double() for part in given)
                return relative(ours(), varlen_attention_reference(queries, keys, values, starts, **more))

            pairs = float(sum(length * (length + 1) / 2 if causal else length**2 for length in lengths))
            given = (queries, keys, values)
            anchors: dict[str, Any] = {"varlen_attn": partial(varlen, *given, starts, longest, causal)}
            if len(set(lengths)) == 1:
                batch = tuple(part.unflatten(1, (-1, longest)).transpose(0, 1).contiguous() for part in given)
                anchors |= {name: partial(equal, batch, causal, name == "cuDNN") for name in ("sdpa, one batch", "cuDNN")}
            else:
                anchors["sdpa, text by text"] = partial(by_text, *given, borders, causal)
            named = f"{words}{', causal' if causal else ''}"
            yield Case(named, ours, error, 6e-3, 2 * 4 * queries.numel(), 4 * 12 * 64 * pairs, anchors)


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

    def chunk_by_chunk() -> Run:
        mask = torch.ones(length, num_before + length, dtype=torch.bool, device=bench.device).tril(num_before)

        def run() -> list[Tensor]:
            found = []
            for first, last in pairwise(borders):
                cos, sin = (turn[num_before:] for turn in turns)
                fresh, query = (rotate_reference(part[:, first:last], cos, sin, "half") for part in (keys, queries))
                seen, shown = torch.cat([before[0], fresh], 1), torch.cat([before[1], values[:, first:last]], 1)
                found.append(sdpa(query, seen, shown, attn_mask=mask)())
                quantise_reference(keys[:, first:last], values[:, first:last], "int8")
            return found

        return run

    yield Case(
        f"{num_chunks} chunks of {length}, int8 kept", ingest, ingest_error, 6e-3, moved, 4 * HEADS * DIM * visible,
        {"sdpa, chunk by chunk": chunk_by_chunk},
    )  # fmt: skip

    num_requests, common, own = (3, 64, 16) if small else (64, 8192, 128)
    shared = (bench.normal(KEY_HEADS, common, DIM), bench.normal(KEY_HEADS, common, DIM))
    asked = bench.normal(num_requests, HEADS, DIM)
    kept = [bench.normal(2, KEY_HEADS, own, DIM) for _ in range(num_requests)]
    step = (asked, *shared, [kv[0] for kv in kept], [kv[1] for kv in kept], [own] * num_requests)
    whole = [torch.cat([torch.stack(shared), kv], 2) for kv in kept]

    def cascade() -> Tensor:
        return cascade_decode(*step, scale=DIM**-0.5)

    def apart() -> list[Tensor]:
        return [sdpa(query[:, None], *kv)() for query, kv in zip(asked, whole, strict=True)]

    moved = 2 * 2 * KEY_HEADS * DIM * (common + num_requests * own)
    yield Case(
        f"{num_requests} requests decode together", cascade,
        lambda: relative(cascade(), cascade_decode_reference(*step, scale=DIM**-0.5)), 6e-3, moved,
        4 * HEADS * DIM * num_requests * (common + own), {"sdpa, one by one": lambda: apart},
    )  # fmt: skip

    outs, lses = bench.normal(2, tokens, HEADS, DIM), torch.randn(2, HEADS, tokens).to(bench.device)

    def merge() -> Tensor:
        return merge_states(outs, lses)[0]

    def expression(outs: Tensor, lses: Tensor) -> Tensor:
        return (lses.softmax(0).transpose(1, 2)[..., None] * outs).sum(0).bfloat16()

    yield Case(
        "two states merged", merge, lambda: relative(merge(), merge_states_reference(outs, lses)[0]), 6e-3, 6 * outs[0].numel(), 0,
        {"torch": lambda: partial(expression, outs, lses), "torch.compile": lambda: compiled(expression, outs, lses)},
    )  # fmt: skip

    last = torch.arange(common - 16, common, device=bench.device)
    window = bench.normal(HEADS, 16, DIM)
    _, known = selective_attention(window, *shared, last, num_keys=common, scale=DIM**-0.5, return_lse=True)

    def scores() -> Tensor:
        return window_scores(window, shared[0], last, known, num_keys=common, scale=DIM**-0.5)

    def expected_scores(window: Tensor, keys: Tensor) -> Tensor:
        dots = (window.view(KEY_HEADS, -1, DIM) @ keys.transpose(1, 2)).float() * DIM**-0.5
        hidden = torch.arange(common, device=bench.device) > last.repeat(HEADS // KEY_HEADS)[:, None]
        found: Tensor = (dots - known.view(KEY_HEADS, -1, 1)).masked_fill(hidden, float("-inf")).exp().sum(1)
        return found

    yield Case(
        "scores of a window of 16", scores,
        lambda: relative(scores(), window_scores_reference(window, shared[0], last, known, num_keys=common, scale=DIM**-0.5)),
        1e-4, 2 * shared[0].numel(), 2.0 * HEADS * DIM * 16 * common,
        {"torch": lambda: partial(expected_scores, window, shared[0]), "torch.compile": lambda: compiled(expected_scores, window, shared[0])},
    )  # fmt: skip

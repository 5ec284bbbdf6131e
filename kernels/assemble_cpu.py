"""Assembly of a key-value buffer in memory: one compiled loop over pieces, layers and heads. Knows addresses; checks no shape.

A job is one head of one layer of one piece. Rows go through registers once (``row_vectors``), or where their dimensions are no whole vectors
through a scratch row: float32, turned, rounded once. Buffers larger than caches are written past them, which spares reading them first. Results are bit for bit those of the torch reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from rag.kernels.assemble import LayerKV
from rag.kernels.crew import split
from rag.kernels.memory_hints import fence
from rag.kernels.numbers_cpu import array_at, bits, narrow, pointer, wide
from rag.kernels.rotate import Style
from rag.kernels.rotate_cpu import STYLES, turn_row
from rag.kernels.row_vectors import (
    LANES,
    fits,
    move_key_codes,
    move_key_codes_past_caches,
    move_row,
    move_row_past_caches,
    move_value_codes,
    move_value_codes_past_caches,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MANY_BYTES = 16 << 20
"""From this many bytes on stores pass the caches by; at 8 MiB attention behind them still finds what it reads nearer without (measured with 32 MiB of L3)."""
_LAYER, _HEAD, _ROW, _TOKENS, _KEYS, _KEY_STRIDE, _KEY_SCALES, _VALUES, _VALUE_STRIDE, _VALUE_SCALES = range(10)


def assemble_cpu(
    pieces: Sequence[Sequence[LayerKV]], starts: Sequence[int], cos: Tensor, sin: Tensor, style: Style, keys: Tensor, values: Tensor
) -> None:
    """See ``assemble.assemble_layers``; every tensor is float32 or bfloat16 (or codes) in memory."""
    groups: dict[tuple[str, torch.dtype], list[tuple[int, int, LayerKV]]] = {}
    for layers, start in zip(pieces, starts, strict=True):
        for layer, piece in enumerate(layers):
            if piece.num_tokens:
                groups.setdefault((piece.kind, piece.keys.dtype), []).append((layer, start, piece))
    if style == "none":
        turns = np.zeros((2, 0, 0), np.float32)
    else:
        turns = np.stack([cos.float().numpy(), sin.float().numpy()])
    past_caches = _passes_caches(pieces, keys, values)
    for (kind, _), group in groups.items():
        held, jobs = _jobs(group)
        types = (bits(group[0][2].keys).dtype.type(0), bits(keys).dtype.type(0))
        packed, pairs = kind == "int4", turns.shape[2]
        vectors = style != "interleaved" and fits(keys.shape[3], pairs, packed) and fits(values.shape[3], 0, packed)
        write = _write if not vectors else _write_plain if kind == "plain" else _write_codes
        places = (turns, bits(keys), bits(values))
        size = group[0][2].keys.element_size()
        heads = keys.shape[1]
        rest = (heads, *types, size, past_caches, *places) if vectors else (*types, *places, kind != "plain", packed, STYLES[style])

        def work(first: int, last: int, write: Any = write, jobs: Any = jobs, rest: Any = rest, heads: int = heads) -> None:
            write(jobs[first * heads : last * heads], *rest)

        split(len(group), work)
        del held  # the scales' addresses are good until here


def _passes_caches(pieces: Sequence[Sequence[LayerKV]], keys: Tensor, values: Tensor) -> bool:
    """Whether stores pass the caches by: rows of whole aligned vectors, and more of them than caches hold, so that none would be found there again."""
    num_rows = sum(piece.num_tokens for layers in pieces for piece in layers) * keys.shape[1]
    num_bytes = num_rows * keys.element_size() * (keys.shape[3] + values.shape[3])
    places = [
        place
        for buffer in (keys, values)
        for place in (buffer.data_ptr(), *(buffer.element_size() * step for step in buffer.stride()[:3]))
    ]
    return num_bytes >= MANY_BYTES and all(place % (LANES * keys.element_size()) == 0 for place in places)


def _jobs(group: Sequence[tuple[int, int, LayerKV]]) -> tuple[list[Tensor], NDArray[np.int64]]:
    """The table of jobs, and the tensors that must live as long as it is used. Strides are in numbers, addresses in bytes."""
    held, first_heads, steps = [], [], []
    for layer, start, piece in group:
        key_scales = value_scales = 0
        if piece.key_scales is not None and piece.value_scales is not None:
            scales = [piece.key_scales.float().contiguous(), piece.value_scales.float().contiguous()]
            key_scales, value_scales = (tensor.data_ptr() for tensor in scales)
            held += scales
        tokens, size, (key_head, key_row, _), (value_head, value_row, _) = (
            piece.num_tokens,
            piece.keys.element_size(),
            piece.keys.stride(),
            piece.values.stride(),
        )
        first_heads.append(
            (layer, 0, start, tokens, piece.keys.data_ptr(), key_row, key_scales, piece.values.data_ptr(), value_row, value_scales)
        )
        key_dim = piece.keys.shape[2] * (2 if piece.kind == "int4" else 1)
        steps.append((0, 1, 0, 0, key_head * size, 0, 4 * key_dim, value_head * size, 0, 4 * tokens))
    heads = np.arange(group[0][2].keys.shape[0], dtype=np.int64)
    table = np.array(first_heads, np.int64)[:, None] + heads[:, None] * np.array(steps, np.int64)[:, None]
    return held, table.reshape(-1, table.shape[-1])


@numba.njit(nogil=True, cache=True)
def _write_plain(
    jobs: Any, heads: int, like: Any, to: Any, size: int, past_caches: bool, turns: Any, keys: Any, values: Any
) -> None:  # pragma: no cover - compiled
    """Rows of whole vectors; ``size``: bytes of a stored number. All heads go along together: memory gives several rows at once sooner than one after another."""
    key_dim, value_dim, pairs = keys.shape[3], values.shape[3], turns.shape[2]
    for first in range(0, len(jobs), heads):
        layer, start = jobs[first, _LAYER], jobs[first, _ROW]
        for token in range(jobs[first, _TOKENS]):
            cos, sin = _turns(turns, start + token)
            for head in range(heads):
                job = jobs[first + head]
                key, value = job[_KEYS] + token * size * job[_KEY_STRIDE], job[_VALUES] + token * size * job[_VALUE_STRIDE]
                to_key, to_value = _address(keys, layer, head, start + token), _address(values, layer, head, start + token)
                if past_caches:
                    move_row_past_caches(key, like, 0, cos, sin, key_dim, pairs, to_key, to)
                    move_row_past_caches(value, like, 0, 0, 0, value_dim, 0, to_value, to)
                else:
                    move_row(key, like, 0, cos, sin, key_dim, pairs, to_key, to)
                    move_row(value, like, 0, 0, 0, value_dim, 0, to_value, to)
    if past_caches:
        fence()


@numba.njit(nogil=True, cache=True)
def _write_codes(
    jobs: Any, heads: int, like: Any, to: Any, size: int, past_caches: bool, turns: Any, keys: Any, values: Any
) -> None:  # pragma: no cover - compiled
    """The same of codes."""
    key_dim, value_dim, pairs = keys.shape[3], values.shape[3], turns.shape[2]
    for first in range(0, len(jobs), heads):
        layer, start, tokens = jobs[first, _LAYER], jobs[first, _ROW], jobs[first, _TOKENS]
        for token in range(tokens):
            cos, sin = _turns(turns, start + token)
            for head in range(heads):
                job = jobs[first + head]
                key, value = job[_KEYS] + token * size * job[_KEY_STRIDE], job[_VALUES] + token * size * job[_VALUE_STRIDE]
                scales, scale = job[_KEY_SCALES], array_at(pointer(job[_VALUE_SCALES], np.float32(0)), tokens)[token]
                to_key, to_value = _address(keys, layer, head, start + token), _address(values, layer, head, start + token)
                if past_caches:
                    move_key_codes_past_caches(key, like, scales, cos, sin, key_dim, pairs, to_key, to)
                    move_value_codes_past_caches(value, like, scale, 0, 0, value_dim, 0, to_value, to)
                else:
                    move_key_codes(key, like, scales, cos, sin, key_dim, pairs, to_key, to)
                    move_value_codes(value, like, scale, 0, 0, value_dim, 0, to_value, to)
    if past_caches:
        fence()


@numba.njit
def _address(buffer: Any, layer: int, head: int, row: int) -> Any:  # pragma: no cover - compiled
    return buffer.ctypes.data + layer * buffer.strides[0] + head * buffer.strides[1] + row * buffer.strides[2]


@numba.njit
def _turns(turns: Any, row: int) -> Any:  # pragma: no cover - compiled
    """Addresses of the cosines and the sines of a row."""
    return turns.ctypes.data + row * turns.strides[1], turns.ctypes.data + turns.strides[0] + row * turns.strides[1]


@numba.njit(nogil=True, cache=True)
def _write(
    jobs: Any, like: Any, to: Any, turns: Any, keys: Any, values: Any, coded: bool, packed: bool, style: int
) -> None:  # pragma: no cover - compiled
    key_dim, value_dim = keys.shape[3], values.shape[3]
    row = np.empty(max(key_dim, value_dim), np.float32)
    ones, none = np.ones(key_dim, np.float32), np.empty(0, np.float32)
    for job in range(len(jobs)):
        layer, head, start, tokens = jobs[job, _LAYER], jobs[job, _HEAD], jobs[job, _ROW], jobs[job, _TOKENS]
        key_scales, value_scales = ones, ones
        if coded:
            key_scales = array_at(pointer(jobs[job, _KEY_SCALES], np.float32(0)), key_dim)
            value_scales = array_at(pointer(jobs[job, _VALUE_SCALES], np.float32(0)), tokens)
        key_step, value_step = jobs[job, _KEY_STRIDE], jobs[job, _VALUE_STRIDE]
        stored_keys = array_at(pointer(jobs[job, _KEYS], like), tokens * key_step)
        stored_values = array_at(pointer(jobs[job, _VALUES], like), tokens * value_step)
        for token in range(tokens):
            _widen(stored_keys[token * key_step :], packed, key_dim, row)
            if coded:
                for place in range(key_dim):
                    row[place] *= key_scales[place]
            out = keys[layer, head, start + token]
            if style:
                turn_row(row[:key_dim], turns[0, start + token], turns[1, start + token], style, out, to)
            else:
                turn_row(row[:key_dim], none, none, style, out, to)
        for token in range(tokens):
            _widen(stored_values[token * value_step :], packed, value_dim, row)
            scale = value_scales[token] if coded else np.float32(1)
            out = values[layer, head, start + token]
            for place in range(value_dim):
                out[place] = narrow(row[place] * scale, to)


@numba.njit
def _widen(stored: Any, packed: bool, dim: int, row: Any) -> None:  # pragma: no cover - compiled
    """One stored row as numbers, not yet scaled."""
    if packed:
        half = dim // 2
        for place in range(half):
            row[place] = np.float32(np.int32(stored[place]) & 15) - np.float32(8)
        for place in range(half):
            row[place + half] = np.float32(np.int32(stored[place]) >> 4) - np.float32(8)
    else:
        for place in range(dim):
            row[place] = wide(stored[place])

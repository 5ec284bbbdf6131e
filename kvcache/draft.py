"""What lies where in the slabs of an entry: a chunk's tensors or some bytes, there and back. Knows no tier and no file.

One slab per layer, so that a layer can be read alone: its keys ``[Hkv, T, Dk]``, its values ``[Hkv, T, Dv]``, and for codes the
scales of both. The tensors of ``statistics``, if there are any, share one more slab. Each tensor begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.key import BytesKey, Key
from rag.kvcache.slab import DamagedKV, Geometry, Head, make_head

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rag.kernels.assemble import LayerKV

Storage = Literal["plain", "int8", "int4"]
STORAGES: tuple[Storage, ...] = ("plain", "int8", "int4")
_APART = 64


class Lies(NamedTuple):
    """A tensor inside a slab."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of the tensor."""
        import torch

        return math.prod(self.shape) * cast("torch.dtype", getattr(torch, self.dtype)).itemsize

    def of(self, slab: Tensor) -> Tensor:
        """The tensor: a view of the slab's bytes, uint8 ``[slab bytes]``."""
        import torch

        flat = slab[self.offset : self.offset + self.num_bytes]
        return flat.view(getattr(torch, self.dtype)).view(self.shape)


class Draft(NamedTuple):
    """An entry that has yet to get its place. ``write`` puts the content of every slab into the slab, a uint8 tensor."""

    head: Head
    write: Callable[[int, Tensor], None]


def chunk_draft(key: Key, kv: ChunkKV, storage: Storage, seconds: float) -> Draft:
    """The entry of a chunk. Raises ``ValueError`` if ``kv`` is not of the key's tokens, or cannot be coded as ``storage``."""
    from rag.kernels.assemble import LayerKV
    from rag.kernels.quantise import quantise_kv

    if kv.ids != key.ids:
        raise ValueError(f"the key is of {len(key.ids)} tokens, and the keys and values of {len(kv.ids)} others")
    layers = LayerKV(kv.keys, kv.values) if storage == "plain" else quantise_kv(kv.keys, kv.values, storage)
    return layers_draft(key, layers, kv.dtype, seconds, kv.statistics)


def layers_draft(key: Key, kv: LayerKV, dtype: str, seconds: float, statistics: Mapping[str, Tensor] | None = None) -> Draft:
    """The entry of ``kv``, all layers in front, that is already as it shall be stored; ``dtype``: of the numbers that codes stand for.

    Raises ``ValueError`` if it is not of as many tokens as the key.
    """
    more = statistics or {}
    num_layers, num_heads, num_tokens, key_width = kv.keys.shape
    if num_tokens != len(key.ids):
        raise ValueError(f"the key is of {len(key.ids)} tokens, and the keys and values of {num_tokens}")
    numbers_per_code = 2 if kv.kind == "int4" else 1
    geometry = Geometry(num_layers, num_heads, key_width * numbers_per_code, kv.values.shape[3] * numbers_per_code)
    places, layer_bytes = _layer_places(geometry, num_tokens, kv.kind, dtype)
    placed, statistics_bytes = _placed([(_dtype(t), tuple(t.shape)) for t in more.values()])
    sizes = [layer_bytes] * num_layers + ([statistics_bytes] if placed else [])
    meta = {"statistics": [[name, *place] for name, place in zip(more, placed, strict=True)]} if placed else {}
    tensors = [tensor for tensor in kv[:4] if tensor is not None]

    def write(number: int, slab: Tensor) -> None:
        if number < num_layers:
            _fill(slab, places, [tensor[number] for tensor in tensors])
        else:
            _fill(slab, placed, list(more.values()))

    return Draft(make_head(key, seconds, kv.kind, dtype, geometry, meta, sizes), write)


def bytes_draft(key: BytesKey, content: bytes, seconds: float) -> Draft:
    """The entry of some bytes."""

    def write(_: int, slab: Tensor) -> None:
        import numpy as np

        if content:
            slab.numpy()[: len(content)] = np.frombuffer(content, np.uint8)
        slab[len(content) :].zero_()

    meta = {"name": key.name, "num_bytes": len(content)}
    return Draft(make_head(key, seconds, "bytes", "float32", Geometry(), meta, [len(content)]), write)


def layer_kv(head: Head, slab: Tensor) -> LayerKV:
    """Keys and values of one layer: views of its slab, uint8 ``[slab bytes]``. Raises ``DamagedKV`` if it is too short."""
    from rag.kernels.assemble import LayerKV

    storage = cast("Storage", head.kind)
    places, num_bytes = _layer_places(head.geometry, len(head.ids), storage, head.dtype)
    if num_bytes > len(slab):
        raise DamagedKV(f"a layer of {num_bytes} bytes cannot lie in a slab of {len(slab)}")
    tensors = [place.of(slab) for place in places]
    key_scales, value_scales = tensors[2:] or (None, None)
    return LayerKV(tensors[0], tensors[1], key_scales, value_scales, storage)


def statistics_of(head: Head, slab: Tensor) -> dict[str, Tensor]:
    """The further tensors of a chunk, from the slab after its layers. Raises ``DamagedKV`` if they do not lie in it."""
    try:
        places = {name: Lies(offset, dtype, tuple(shape)) for name, offset, dtype, shape in head.meta["statistics"]}
        return {name: place.of(slab) for name, place in places.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DamagedKV("its statistics do not lie in their slab") from error


def content_of(head: Head, slab: Tensor) -> bytes:
    """The bytes that were kept. Raises ``DamagedKV`` if they do not lie in their slab."""
    num_bytes = head.meta.get("num_bytes")
    if not isinstance(num_bytes, int) or not 0 <= num_bytes <= len(slab):
        raise DamagedKV(f"it should hold {num_bytes} bytes")
    return slab[:num_bytes].cpu().numpy().tobytes()


def _layer_places(geometry: Geometry, num_tokens: int, storage: Storage, dtype: str) -> tuple[list[Lies], int]:
    _, heads, key_dim, value_dim = geometry
    wanted: list[tuple[str, tuple[int, ...]]]
    match storage:
        case "plain":
            wanted = [(dtype, (heads, num_tokens, key_dim)), (dtype, (heads, num_tokens, value_dim))]
        case "int8":
            wanted = [("int8", (heads, num_tokens, key_dim)), ("int8", (heads, num_tokens, value_dim))]
        case "int4":
            wanted = [("uint8", (heads, num_tokens, key_dim // 2)), ("uint8", (heads, num_tokens, value_dim // 2))]
    if storage != "plain":
        wanted += [("float32", (heads, key_dim)), ("float32", (heads, num_tokens))]
    return _placed(wanted)


def _placed(wanted: list[tuple[str, tuple[int, ...]]]) -> tuple[list[Lies], int]:
    places, offset = [], 0
    for dtype, shape in wanted:
        places.append(Lies(offset, dtype, shape))
        offset += -(-places[-1].num_bytes // _APART) * _APART
    return places, offset


def _fill(slab: Tensor, places: list[Lies], tensors: list[Tensor]) -> None:
    end = 0
    for place, tensor in zip(places, tensors, strict=True):
        slab[end : place.offset].zero_()  # memory is reused: what lay here before may be another tenant's
        place.of(slab).copy_(tensor)
        end = place.offset + place.num_bytes
    slab[end:].zero_()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

"""The bytes of one entry: a head, then slabs that can be read one by one. Knows no tensor, no tier and no file system.

    fixed part   magic, version, sizes, kind, geometry, prefill seconds, digest and proof of the key, checksum of this part
    slab table   offset, length and checksum of every slab
    ids          int64, the tokens of the chunk
    meta         a small JSON object
    checksum     of the whole head, in its last 8 bytes; the head is padded to 4096 bytes
    slabs        each at a multiple of 4096 and padded to one

Every byte of an entry is under some checksum. All numbers are little-endian. The same bytes lie in memory, on a device and in a file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rag.errors import RagError
from rag.kvcache.checksum import checksum
from rag.kvcache.chunk_kv import DTYPES
from rag.kvcache.key import FORMAT_VERSION, Key

MAGIC = b"RAGKV\r\n\x1a"
KINDS = ("plain", "int8", "int4", "bytes")
ALIGNMENT = 4096
_FIXED = struct.Struct("<8sIIQIIIBBHIIIId32s32s")
_CHECKSUM = struct.Struct("<Q")
_PLACE = struct.Struct("<QQQ")
FIXED_BYTES = _FIXED.size + _CHECKSUM.size
MAX_SECONDS = 1e9


class DamagedKV(RagError):
    """An entry is not what was stored. It is dropped; the next request for it is a miss."""


class ForeignKV(RagError):
    """An entry of another version of the format. It is left alone."""


class Place(NamedTuple):
    """Where a slab lies in its entry, in bytes, and its checksum (0 while nobody has asked for it)."""

    offset: int
    num_bytes: int
    checksum: int


class Geometry(NamedTuple):
    """Layers, key-value heads, dimensions of a key and of a value; zeros for an entry that is no chunk."""

    num_layers: int = 0
    num_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0


@dataclass(frozen=True, eq=False)
class Head:
    """Everything about an entry but its slabs. ``seconds``: what it took to compute; ``num_bytes``: of the whole entry."""

    digest: str
    proof: bytes
    ids: tuple[int, ...]
    seconds: float
    kind: str
    dtype: str
    geometry: Geometry
    meta: Mapping[str, Any]
    places: tuple[Place, ...]
    head_bytes: int
    num_bytes: int

    @property
    def name(self) -> str:
        """What the entry is called: a chunk stored in two ways is two entries, and one never answers for the other."""
        return entry_name(self.digest, self.kind)

    def answers(self, key: Key) -> bool:
        """Whether this is the entry of ``key``, and not of another one with the same digest."""
        return self.digest == key.digest and self.proof == key.proof and self.ids == key.ids


def entry_name(digest: str, kind: str) -> str:
    """See ``Head.name``."""
    return f"{digest}-{kind}"


def make_head(
    key: Key, seconds: float, kind: str, dtype: str, geometry: Geometry, meta: Mapping[str, Any], slab_sizes: Sequence[int]
) -> Head:
    """The head of an entry with slabs of at least these sizes. Raises ``ValueError`` for seconds that are no time."""
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SECONDS):
        raise ValueError(f"prefill_seconds={seconds}: it must be between 0 and {MAX_SECONDS:g}")
    head_bytes = _head_bytes(len(slab_sizes), len(key.ids), len(_json(meta)))
    places, offset = [], head_bytes
    for size in slab_sizes:
        places.append(Place(offset, padded(size), 0))
        offset += padded(size)
    return Head(key.digest, key.proof, key.ids, seconds, kind, dtype, geometry, dict(meta), tuple(places), head_bytes, offset)


def padded(num_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def seal(head: Head, entry: memoryview) -> Head:
    """Computes the checksums of the slabs in ``entry``, writes the head in front of them, and returns it with the checksums."""
    sealed = replace(head, places=tuple(place._replace(checksum=checksum(slab(entry, place))) for place in head.places))
    entry[: head.head_bytes] = _packed(sealed)
    return sealed


def slab(entry: memoryview, place: Place) -> memoryview:
    """The bytes of one slab."""
    return entry[place.offset : place.offset + place.num_bytes]


def read_head(beginning: bytes) -> Head:
    """The head of an entry, from at least its ``head_bytes`` (see ``read_fixed``).

    Raises ``DamagedKV`` with the reason, or ``ForeignKV``.
    """
    fixed = read_fixed(beginning)
    head = memoryview(beginning)[: fixed.head_bytes]
    if len(head) < fixed.head_bytes:
        raise DamagedKV("its head is cut short")
    if checksum(head[: -_CHECKSUM.size]) != _CHECKSUM.unpack(head[-_CHECKSUM.size :])[0]:
        raise DamagedKV("its head has changed")
    ids_start = FIXED_BYTES + fixed.num_slabs * _PLACE.size
    meta_start = ids_start + 8 * fixed.num_ids
    places = tuple(Place(*place) for place in _PLACE.iter_unpack(head[FIXED_BYTES:ids_start]))
    ids = struct.unpack(f"<{fixed.num_ids}q", head[ids_start:meta_start])
    try:
        meta = json.loads(bytes(head[meta_start : meta_start + fixed.meta_bytes]))
    except ValueError as error:
        raise DamagedKV("its description is no JSON") from error
    end = fixed.head_bytes
    for place in places:
        if place.offset != end or place.num_bytes % ALIGNMENT:
            raise DamagedKV("its slabs do not follow one another")
        end += place.num_bytes
    if end != fixed.num_bytes:
        raise DamagedKV(f"its slabs end at {end} of {fixed.num_bytes} bytes")
    return Head(
        fixed.digest,
        fixed.proof,
        ids,
        fixed.seconds,
        fixed.kind,
        fixed.dtype,
        fixed.geometry,
        meta,
        places,
        fixed.head_bytes,
        fixed.num_bytes,
    )


class Fixed(NamedTuple):
    """The fixed part of a head: enough to know what an entry is worth without reading it."""

    head_bytes: int
    num_bytes: int
    num_slabs: int
    num_ids: int
    meta_bytes: int
    dtype: str
    kind: str
    geometry: Geometry
    seconds: float
    digest: str
    proof: bytes


def read_fixed(beginning: bytes) -> Fixed:
    """The fixed part, from at least ``FIXED_BYTES``. Raises ``DamagedKV`` with the reason, or ``ForeignKV``."""
    if len(beginning) < FIXED_BYTES:
        raise DamagedKV(f"it ends after {len(beginning)} bytes")
    magic, version, head_bytes, num_bytes, num_slabs, num_ids, meta_bytes, dtype, kind, _, *rest = _FIXED.unpack_from(beginning)
    if magic != MAGIC:
        raise DamagedKV("it does not begin like an entry")
    if version != FORMAT_VERSION:
        raise ForeignKV(f"it is of version {version} of the format, not {FORMAT_VERSION}")
    if checksum(beginning[: _FIXED.size]) != _CHECKSUM.unpack_from(beginning, _FIXED.size)[0]:
        raise DamagedKV("its first bytes have changed")
    geometry, (seconds, digest, proof) = Geometry(*rest[:4]), rest[4:]
    if head_bytes != _head_bytes(num_slabs, num_ids, meta_bytes) or dtype >= len(DTYPES) or kind >= len(KINDS):
        raise DamagedKV("its sizes contradict one another")
    if num_slabs not in ({1} if KINDS[kind] == "bytes" else {geometry.num_layers, geometry.num_layers + 1}):
        raise DamagedKV(f"it has {num_slabs} slabs for {geometry.num_layers} layers")
    if not 0 <= seconds <= MAX_SECONDS:
        raise DamagedKV(f"it claims to have taken {seconds} seconds")
    return Fixed(
        head_bytes, num_bytes, num_slabs, num_ids, meta_bytes, DTYPES[dtype], KINDS[kind], geometry, seconds, digest.hex(), proof
    )


def _head_bytes(num_slabs: int, num_ids: int, meta_bytes: int) -> int:
    return padded(FIXED_BYTES + num_slabs * _PLACE.size + 8 * num_ids + meta_bytes + _CHECKSUM.size)


def _packed(head: Head) -> bytes:
    meta = _json(head.meta)
    fixed = _FIXED.pack(
        MAGIC,
        FORMAT_VERSION,
        head.head_bytes,
        head.num_bytes,
        len(head.places),
        len(head.ids),
        len(meta),
        DTYPES.index(head.dtype),
        KINDS.index(head.kind),
        0,
        *head.geometry,
        head.seconds,
        bytes.fromhex(head.digest),
        head.proof,
    )
    table = b"".join(_PLACE.pack(*place) for place in head.places)
    content = fixed + _CHECKSUM.pack(checksum(fixed)) + table + struct.pack(f"<{len(head.ids)}q", *head.ids) + meta
    content += bytes(head.head_bytes - _CHECKSUM.size - len(content))
    return content + _CHECKSUM.pack(checksum(content))


def _json(meta: Mapping[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()

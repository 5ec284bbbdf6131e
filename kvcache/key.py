"""Under what name the keys and values of a chunk are kept: everything they depend on, hashed. Knows no file and no tensor.

Two requests may share an entry only if model, rotation, weights, context of the chunk, its tokens and the tenant are the same
(vLLM's ``cache_salt``, CVE-2025-46570). The salt is the secret of a MAC, so a name tells nothing to who does not know the salt,
and no entry holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

POLICIES = ("bare", "bos-dropped", "shared-prefix", "in-situ", "variant")
"""What the model saw before the chunk: nothing; the first token of a text; the fixed beginning of the prompt; what stood before it; some
other chunks, which the entry itself tells, and its key only numbers (``rag.kvcache.variants``)."""
FORMAT_VERSION = 1
"""Of the files. Part of every name, so that programs of different versions share a folder without sharing entries."""


class Key(Protocol):
    """What names an entry. Equal ``digest`` is not enough: ``proof`` and ``ids`` are compared before anything is answered."""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits, name of the file."""
        ...

    @property
    def proof(self) -> bytes:
        """32 bytes of another hash of the same."""
        ...

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens of the chunk; none for an entry that is no chunk."""
        ...


class _Macs:
    """Digest and proof of a canonical text under a salt."""

    salt: str

    def canonical(self) -> str:
        """Everything but the salt, one spelling for one meaning."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """HMAC-SHA-256 of the canonical text."""
        return hmac.new(self._secret(), self.canonical().encode(), hashlib.sha256).hexdigest()

    @cached_property
    def proof(self) -> bytes:
        """HMAC-BLAKE2s of the same, independent of the digest."""
        return hmac.new(self._secret(), self.canonical().encode(), hashlib.blake2s).digest()

    def _secret(self) -> bytes:
        # HMAC pads a short secret with zeros, so that "a" and "a\0" would be the same one
        return hashlib.sha256(self.salt.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class KVKey(_Macs):
    """The name of one chunk's keys and values.

    ``model``: see ``model_identity``. ``policy``: one of ``POLICIES``. ``ids``: tokens of the chunk. ``prefix_ids``: tokens the model
    saw before it. ``salt``: secret of the tenant; entries of two salts are never shared. Raises ``ValueError`` for a chunk without
    tokens, an unknown policy, and ``bare`` with a prefix.
    """

    model: str
    policy: str
    ids: tuple[int, ...]
    prefix_ids: tuple[int, ...] = ()
    salt: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}; it can be {', '.join(POLICIES)}")
        if not self.ids:
            raise ValueError("a chunk without tokens has no keys and values")
        if self.policy == "bare" and self.prefix_ids:
            raise ValueError(
                f"policy 'bare' means that nothing stands before the chunk, but there are {len(self.prefix_ids)} tokens"
            )

    def canonical(self) -> str:
        """Everything but the salt, one spelling for one meaning."""
        return _canonical(
            {
                "format": FORMAT_VERSION,
                "entry": "chunk",
                "model": self.model,
                "policy": self.policy,
                "prefix": list(map(int, self.prefix_ids)),
                "ids": list(map(int, self.ids)),
            }
        )


@dataclass(frozen=True)
class BytesKey(_Macs):
    """The name of some bytes that are kept beside the chunks, under a word of the caller's."""

    name: str
    salt: str = field(default="", repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """None."""
        return ()

    def canonical(self) -> str:
        """Everything but the salt, one spelling for one meaning."""
        return _canonical({"format": FORMAT_VERSION, "entry": "bytes", "name": self.name})


def model_identity(weights: str, dtype: str, rotation: Mapping[str, Any], geometry: Mapping[str, Any]) -> str:
    """One spelling of what a model is, as far as its keys and values go.

    ``weights``: a name that changes when they do (hub id and revision, or a hash of the files). ``rotation``: the parameters of its
    position encoding. ``geometry``: layers, heads, dimensions.

    >>> model_identity("tiny@1", "float32", {"rope_theta": 1e4}, {"num_layers": 2})
    '{"dtype":"float32","geometry":{"num_layers":2},"rotation":{"rope_theta":10000.0},"weights":"tiny@1"}'
    """
    return _canonical({"weights": weights, "dtype": dtype, "rotation": dict(rotation), "geometry": dict(geometry)})


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

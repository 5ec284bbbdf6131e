"""A key-value store as LangChain's ``BaseStore[str, bytes]``. Knows no chunk: bytes under words, beside the chunks.

Bytes share the store's budgets, eviction, checksums and folder. It is a cache: what is worth less than the rest goes, and then ``mget``
says ``None``. A process that has read a value may go on answering with it after another process has replaced it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from langchain_core.stores import BaseStore

from rag.kvcache.key import BytesKey
from rag.kvcache.store import KVStore


class KVByteStore(BaseStore[str, bytes]):
    """``salt``: secret of the tenant; words of two salts never meet. ``seconds``: what making a value anew costs, its worth in eviction."""

    def __init__(self, store: KVStore, *, salt: str = "", seconds: float = 1.0) -> None:
        self.store, self._salt, self._seconds = store, salt, seconds

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values; ``None`` where there is none, or what is there is damaged."""
        return [self.store.get_bytes(BytesKey(key, self._salt)) for key in keys]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Keeps the values, each in the place of what its key had."""
        for key, value in key_value_pairs:
            self.store.put_bytes(BytesKey(key, self._salt), value, self._seconds)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Deletes the values; keys without one are passed over."""
        self.store.drop([BytesKey(key, self._salt) for key in keys])

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted within what is there now."""
        yield from self.store.names(prefix or "", self._salt)

"""All indexes as they stood at one commit, ready to be searched. Knows no query and no configuration."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag.catalog_read import Read
from rag.core import PUBLIC, Index, Reader
from rag.errors import DamagedIndex, IndexMismatch
from rag.filter import Filter
from rag.segments import SegmentStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_CACHED_MASKS = 32


@dataclass
class Snapshot:
    """Readers of one generation, and the masks of the filters that were asked of it."""

    generation: int
    readers: Mapping[str, Reader]
    only_public: bool
    _masks: OrderedDict[tuple[tuple[str, ...], Filter | None], NDArray[np.bool_]] = field(default_factory=OrderedDict)

    def allow(self, read: Read, principals: Sequence[str], expression: Filter | None) -> NDArray[np.bool_] | None:
        """``allow[key]`` for these readers and this filter; ``None`` when everything is allowed. ``read`` is of this generation."""
        everybody = self.only_public and PUBLIC in principals
        if everybody and expression is None:
            return None
        name = (() if everybody else tuple(sorted(set(principals))), expression)
        if name not in self._masks:
            self._masks[name] = read.allowed(None if everybody else list(name[0]), expression)
            while len(self._masks) > _MAX_CACHED_MASKS:
                self._masks.popitem(last=False)
        return self._masks[name]


def check_fingerprints(read: Read, indexes: Mapping[str, Index]) -> None:
    """Raises ``IndexMismatch`` if an index is not on disk, or was made by another model or other settings."""
    stored: dict[str, str] = json.loads(read.meta("indexes"))
    for name, index in indexes.items():
        if name not in stored:
            raise IndexMismatch(f"the index {name!r} is configured but not built; `rag index rebuild` builds it from the catalog")
        if stored[name] != index.fingerprint:
            raise IndexMismatch(
                f"the index {name!r} was built with other settings ({stored[name]}) than the configured ones "
                f"({index.fingerprint}); `rag index rebuild` builds it anew from the catalog"
            )


def take(read: Read, store: SegmentStore, indexes: Mapping[str, Index]) -> Snapshot:
    """The snapshot of the commit that ``read`` sees. Raises ``IndexMismatch`` or ``DamagedIndex``."""
    check_fingerprints(read, indexes)
    live = read.live()
    rows = read.segments()
    store.keep_open([row.name for row in rows])
    readers = {}
    for name, index in indexes.items():
        segments = [store.open(row, index) for row in rows if row.index_name == name]
        num_found = sum(int(live[segment.keys].sum()) for segment in segments)
        if num_found != int(live.sum()):
            raise DamagedIndex(store.folder, f"the index {name!r} holds {num_found} of the {int(live.sum())} committed chunks")
        readers[name] = index.reader(segments, live)
    return Snapshot(read.generation, readers, read.only_public())

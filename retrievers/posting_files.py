"""Arrays of a segment as files of one folder, with a manifest. Knows names, types and sizes; knows not what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import DamagedIndex, IndexMismatch

MANIFEST = "manifest.json"


def save_arrays(folder: Path, kind: str, version: int, fingerprint: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes one ``.npy`` file per array and then ``manifest.json`` into an existing folder."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    sizes = {name: [str(values.dtype), len(values)] for name, values in arrays.items()}
    manifest = {"format": version, "kind": kind, "fingerprint": fingerprint, "arrays": sizes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def load_arrays(
    folder: Path, kind: str, version: int, fingerprint: str, dtypes: Mapping[str, tuple[str, ...]]
) -> dict[str, NDArray[Any]]:
    """What ``save_arrays`` wrote, memory-mapped; ``dtypes``: the types that each array may have.

    Raises ``DamagedIndex`` if a file is missing or is not what the manifest says, ``IndexMismatch`` if the manifest tells of another
    kind, format or fingerprint.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found_version, found_fingerprint, sizes = manifest["format"], manifest["fingerprint"], manifest["arrays"]
        found_kind = manifest["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedIndex(folder / MANIFEST, f"not a readable manifest ({type(error).__name__}: {error})") from error
    if found_kind != kind:
        raise IndexMismatch(f"{folder} holds a segment of kind {found_kind!r}; this index reads {kind!r}")
    if found_version != version:
        raise IndexMismatch(f"{folder} has {kind} format {found_version!r}; this version reads format {version}")
    if found_fingerprint != fingerprint:
        raise IndexMismatch(f"{folder} was made by {found_fingerprint!r}, this index is {fingerprint!r}")
    return {name: _open_array(folder / f"{name}.npy", name, allowed, sizes) for name, allowed in dtypes.items()}


def _open_array(path: Path, name: str, allowed: tuple[str, ...], sizes: Any) -> NDArray[Any]:
    try:
        values = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        expected = sizes[name]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DamagedIndex(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if values.ndim != 1 or str(values.dtype) not in allowed or [str(values.dtype), len(values)] != expected:
        raise DamagedIndex(path, f"holds {values.dtype} {values.shape}, the manifest says {expected}")
    return values


def refuse(folder: Path, problems: Mapping[str, bool]) -> None:
    """Raises ``DamagedIndex`` for the first array whose content is wrong."""
    for name, wrong in problems.items():
        if wrong:
            raise DamagedIndex(folder / f"{name}.npy", "does not fit the other files of the segment")


def ascend(numbers: NDArray[Any]) -> bool:
    """Whether the numbers start at 0 or above and each is larger than the one before."""
    return len(numbers) == 0 or (int(numbers[0]) >= 0 and bool((numbers[1:] > numbers[:-1]).all()))


def partition(starts: NDArray[np.int64], num_rows: int, total: int) -> bool:
    """Whether ``starts`` cuts ``total`` things into ``num_rows`` rows."""
    return len(starts) == num_rows + 1 and int(starts[0]) == 0 and int(starts[-1]) == total and not (np.diff(starts) < 0).any()

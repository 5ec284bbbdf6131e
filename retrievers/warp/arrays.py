"""Named arrays that grow block by block, in memory or in raw files, and how such files are mapped. Knows no meaning of any array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rag.errors import DamagedIndex

if TYPE_CHECKING:
    from torch import Tensor

Arrays = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype, shape) of every array."""


class Sink(Protocol):
    """Takes arrays block by block."""

    def add(self, name: str, block: NDArray[Any]) -> None:
        """Appends rows to the array ``name``. The first block, which may have no rows, tells dtype and width."""
        ...

    def finish(self) -> Arrays:
        """The whole arrays, not to be written to."""
        ...


class MemorySink:
    """Keeps the blocks and joins them."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[NDArray[Any]]] = {}

    def add(self, name: str, block: NDArray[Any]) -> None:
        self._blocks.setdefault(name, []).append(block)

    def finish(self) -> Arrays:
        return {name: frozen(np.concatenate(blocks)) for name, blocks in self._blocks.items()}


class FileSink:
    """Writes ``<name>.bin`` below a folder; memory holds one block at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def add(self, name: str, block: NDArray[Any]) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.bin").open("wb")
            self._shapes[name] = (block.dtype.str, (0, *block.shape[1:]))
        dtype, shape = self._shapes[name]
        assert block.dtype.str == dtype and block.shape[1:] == shape[1:]
        self._files[name].write(np.ascontiguousarray(block).data)
        self._shapes[name] = (dtype, (shape[0] + len(block), *shape[1:]))

    def finish(self) -> Arrays:
        for file in self._files.values():
            file.close()
        return map_arrays(self._folder, self._shapes)


def map_arrays(folder: Path, shapes: Shapes) -> Arrays:
    """Maps the files of a folder. Raises ``DamagedIndex`` that names a file which is missing or of the wrong length."""
    found: dict[str, NDArray[Any]] = {}
    for name, (described, shape) in shapes.items():
        path, dtype = folder / f"{name}.bin", np.dtype(described)
        wanted = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        try:
            if (num_bytes := path.stat().st_size) != wanted:
                raise DamagedIndex(path, f"it holds {num_bytes} bytes, the manifest says {wanted}")
            found[name] = frozen(np.memmap(path, dtype, "r", shape=shape) if wanted else np.zeros(shape, dtype))
        except OSError as error:
            raise DamagedIndex(path, f"it cannot be read: {error}") from error
    return found


class _Alias:
    """An array's memory, told to be writable: torch has no other kind of tensor and warns of what is read-only."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # the memory lives as long as the alias
        told = array.__array_interface__
        self.__array_interface__ = told | {"data": (told["data"][0], False)}


def as_tensor(array: NDArray[Any]) -> Tensor:
    """The memory of a ``frozen`` array as a tensor, nothing copied. Writing to it ends the process: nobody may."""
    import torch

    return torch.from_numpy(np.asarray(_Alias(array)))


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, contiguous and read-only: compiled functions are compiled once for mapped files and for memory alike."""
    plain = np.ascontiguousarray(np.asarray(array))
    if plain.flags.writeable:
        plain.flags.writeable = False
    return plain

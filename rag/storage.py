"""Bytes that stay: making files durable, naming what they should hold, and one writer at a time. Knows no index.

A file is durable when its bytes *and* the name of every folder above it are on the disk, so order is everything:
write, fsync the file, fsync its folder, only then let the catalog name it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rag.errors import DamagedIndex, IndexLocked


class FileSeal(NamedTuple):
    """What a file must be: its name inside its folder, its length in bytes and its SHA-256."""

    name: str
    num_bytes: int
    sha256: str


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal_folder(folder: Path) -> list[FileSeal]:
    """Makes every file of ``folder`` (which has no sub-folders) durable, then the folder itself; returns what stands there."""
    seals = []
    for path in sorted(folder.iterdir()):
        fsync(path)
        seals.append(FileSeal(path.name, path.stat().st_size, _sha256(path)))
    fsync(folder)
    fsync(folder.parent)
    return seals


def check_folder(folder: Path, seals: list[FileSeal], *, read_bytes: bool = True) -> None:
    """Raises ``DamagedIndex`` that names the first file that is missing, cut short, or (``read_bytes``) altered."""
    for seal in seals:
        path = folder / seal.name
        try:
            num_bytes = path.stat().st_size
            if num_bytes != seal.num_bytes:
                raise DamagedIndex(path, f"holds {num_bytes} bytes instead of {seal.num_bytes}")
            if read_bytes and _sha256(path) != seal.sha256:
                raise DamagedIndex(path, "its bytes have changed (SHA-256 differs)")
        except FileNotFoundError:
            raise DamagedIndex(path, "is missing") from None
        except OSError as error:
            raise DamagedIndex(path, f"cannot be read: {error.strerror}") from None


def remove_folder(folder: Path) -> None:
    """Removes a folder that nothing names any more; readers that still map its files keep them until they let go."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Holds the one writer's place of an index. The kernel frees it when the process ends, however it ends.

    Raises ``IndexLocked`` that names the process which holds it.
    """
    descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise IndexLocked(f"{folder}: {holder or 'another process'} is writing to this index; wait until it is done") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)

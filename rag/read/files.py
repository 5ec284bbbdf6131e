"""The bytes of one file, taken from disk without being tricked. Knows paths and descriptors; knows no format."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag.errors import FileTooLarge, ReadError
from rag.read.draft import Limits

_NUM_TRIES = 3
_BLOCK_BYTES = 2**20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a link",
}
_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENXIO: "is a socket or a device, not a file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "is a link that cannot be followed",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EIO: "the disk cannot read it (input/output error)",
}


@dataclass(frozen=True, slots=True)
class RawFile:
    """The bytes of a file and what tells one version of it from another. ``file_hash`` is BLAKE2b, 128 bits, in hex."""

    path: Path
    source: str
    data: bytes = field(repr=False)
    file_hash: str
    mtime_ns: int

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.data)


def hash_of(data: bytes) -> str:
    """The ``file_hash`` of these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def source_of(path: Path) -> str:
    """The name of a file wherever it is named from: its resolved path. Bytes that are no UTF-8 are shown as ``\\xff``."""
    return os.fsencode(path.resolve().as_posix()).decode("utf-8", "backslashreplace")


def reason_of(error: OSError) -> str:
    """One line for ``ReadError``."""
    return _REASONS.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()


def kind_of(mode: int) -> str:
    """What a ``st_mode`` that is no regular file stands for, with its article."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def open_file(
    path: Path,
    limits: Limits | None = None,
    *,
    source: str | None = None,
    within: Sequence[Path] = (),
    most_bytes: int | None = None,
) -> RawFile:
    """Reads a regular file, whole or its first ``most_bytes``, whatever the path turns into meanwhile.

    Nothing but a regular file is ever opened for reading or waited for. With ``within``, the file must really lie in
    one of those folders once all links are followed. Raises ``ReadError`` (missing, not permitted, not a regular
    file, outside, changing while it is read) or ``FileTooLarge``.
    """
    limits = limits or Limits()
    for _ in range(_NUM_TRIES):
        try:
            resolved = Path(os.path.realpath(path, strict=True))
            before = os.stat(resolved, follow_symlinks=False)
            _check_regular(path, before)  # before opening: to open some devices is to use them
            data, opened, after = _read(path, resolved, limits, within, most_bytes)
        except OSError as error:
            raise ReadError(path, reason_of(error)) from error
        except ValueError as error:  # a NUL in the name
            raise ReadError(path, f"not a path: {error}") from error
        if (opened.st_mtime_ns, opened.st_size) == (after.st_mtime_ns, after.st_size):
            return RawFile(path, source_of(resolved) if source is None else source, data, hash_of(data), after.st_mtime_ns)
    raise ReadError(path, "keeps changing while it is read")


def _read(
    path: Path, resolved: Path, limits: Limits, within: Sequence[Path], most_bytes: int | None
) -> tuple[bytes, os.stat_result, os.stat_result]:
    """The bytes and the state of the file before and after they were read."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(resolved, flags)
    try:
        opened = os.fstat(descriptor)
        _check_regular(path, opened)
        if within:
            _check_within(path, _path_of(descriptor, resolved), within)
        if opened.st_size > limits.max_file_bytes:
            raise _too_large(path, f"{opened.st_size / 2**20:.0f} MiB", limits)
        if most_bytes is not None:
            return os.read(descriptor, most_bytes), opened, opened
        blocks, num_bytes = [], 0
        while block := os.read(descriptor, min(max(opened.st_size - num_bytes + 1, 4096), 64 * _BLOCK_BYTES)):
            blocks.append(block)
            num_bytes += len(block)
            if num_bytes > limits.max_file_bytes:  # it grew, or it is a file of /proc that does not say its size
                raise _too_large(path, "growing", limits)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks), opened, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _check_regular(path: Path, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise ReadError(path, f"is {kind_of(state.st_mode)}, not a file")


def _path_of(descriptor: int, resolved: Path) -> Path:
    """Where an open file really is: a folder on the way may have become a link after ``resolved`` was made."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:  # not Linux
        return resolved


def _check_within(path: Path, real: Path, within: Sequence[Path]) -> None:
    if not any(real.is_relative_to(folder.resolve()) for folder in within):
        raise ReadError(path, f"leads out of the folder (to {real})")


def _too_large(path: Path, found: str, limits: Limits) -> FileTooLarge:
    return FileTooLarge(path, f"is {found}; the limit max_file_bytes is {limits.max_file_bytes / 2**20:.0f} MiB")

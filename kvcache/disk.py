"""Entries as files in one folder that several processes may share. Knows bytes and heads; no tensor, no chunk.

A cache may vanish at any moment but must not lie, so nothing is flushed to the disk by force and everything is checked when it is
read. A file comes to be under another name and is renamed when it is whole. All writers of a folder take turns by one lock that
the kernel frees when its holder dies; readers take none: a file that is deleted stays with those who have it open. Files are
read, not mapped: a mapped file that somebody cuts short, or a bad sector under one, kills the process instead of failing a call.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.kvcache.checksum import checksum
from rag.kvcache.eviction import Policy, Ranking
from rag.kvcache.rate import Rates
from rag.kvcache.slab import FIXED_BYTES, DamagedKV, ForeignKV, Head, Place, read_fixed, read_head

_NAME = re.compile(r"[0-9a-f]{64}-(plain|int8|int4|bytes)\.kv")
_UNDERWAY = re.compile(r"[0-9a-f]{64}-(plain|int8|int4|bytes)\.part")
_LOCK = "lock"


class EntryFile:
    """An entry that is open for reading. Whatever happens to its name, what is read is this file or an error."""

    def __init__(self, path: Path) -> None:
        """Raises ``FileNotFoundError``, other ``OSError``, ``DamagedKV`` or ``ForeignKV``."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(self._descriptor)
            self.inode = status.st_ino
            if not stat.S_ISREG(status.st_mode):
                raise DamagedKV(f"{path}: it is no file")
            fixed = read_fixed(os.pread(self._descriptor, FIXED_BYTES, 0))
            if status.st_size != fixed.num_bytes or fixed.head_bytes > fixed.num_bytes:
                raise DamagedKV(f"{path}: it has {status.st_size} bytes instead of {fixed.num_bytes}")
            self.head = read_head(os.pread(self._descriptor, fixed.head_bytes, 0))
            if path.name != f"{self.head.name}.kv":
                raise DamagedKV(f"{path}: it is the entry {self.head.name}")
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self, place: Place, target: memoryview) -> None:
        """Fills ``target`` with a slab and checks it there. Raises ``DamagedKV`` if that is not what was written, or cannot be read."""
        done = 0
        try:
            while done < place.num_bytes:
                count = os.preadv(self._descriptor, [target[done:]], place.offset + done)
                if not count:
                    raise DamagedKV("it ends too early")
                done += count
        except OSError as error:
            raise DamagedKV(f"it cannot be read: {error.strerror}") from error
        if checksum(target) != place.checksum:
            raise DamagedKV("a slab has changed")

    def close(self) -> None:
        """Lets go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class Disk:
    """The entries of ``folder``, at most ``num_bytes`` of them together. Thread safe; may be shared by processes."""

    def __init__(self, folder: Path, num_bytes: int, eviction: Policy, rates: Rates) -> None:
        self.folder, self.num_bytes = folder, num_bytes
        self.evictions = self.damaged = self.foreign = 0
        self._rates = rates
        self._ranking = Ranking(eviction)
        self._sizes: dict[str, tuple[int, float, int]] = {}  # name -> bytes, prefill seconds, tokens
        self._hits: dict[str, int] = {}
        self._used = 0
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._writing():
            self._look()
            self._make_room(0, float("inf"), lambda name: True)

    # What is there -----------------------------------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._sizes

    def counts(self) -> tuple[dict[str, int], int]:
        """Tokens by entry name, and the bytes of all entries together."""
        with self._lock:
            return {name: tokens for name, (_, _, tokens) in self._sizes.items()}, self._used

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there now, whoever wrote it."""
        return os.path.exists(self._path(name))

    def open(self, name: str) -> EntryFile | None:
        """The entry, open; ``None`` if there is none that can be read. One that is damaged is deleted and counted."""
        try:
            return EntryFile(self._path(name))
        except FileNotFoundError:
            with self._lock:
                self._forget(name)
        except OSError:
            with self._lock:
                self.damaged += 1
        except (DamagedKV, ForeignKV):  # no other version makes files of this name
            self.remove_damaged(name, None)
        return None

    def touch(self, name: str, hits: int, head: Head) -> None:
        """It was asked for."""
        with self._lock:
            if name not in self._sizes:
                if not self.exists(name):  # it was deleted since it was opened
                    return
                self._know(name, head.num_bytes, head.seconds, len(head.ids))
            self._rank(name, hits)

    def worth_it(self, head: Head) -> bool:
        """Whether loading it would be faster than computing it."""
        return self._rates.seconds("disk", head.num_bytes) < head.seconds and head.num_bytes <= self.num_bytes

    # What changes ------------------------------------------------------------------------------------------------------------

    def write(
        self, head: Head, entry: memoryview, hits: int, needed: Collection[str], may_evict: bool, wanted: Callable[[], bool]
    ) -> bool:
        """Keeps a sealed entry; ``False`` if others are worth more, or it is not ``wanted`` when its turn has come.

        ``needed``: names of entries that must not be evicted. Raises ``OSError``.
        """
        with self._writing():
            if not wanted():
                return False
            self._look()
            with self._lock:
                self._unlink(head.name)
                value = self._ranking.value(hits, self._saved(head.seconds, head.num_bytes), head.num_bytes)
            if not self._make_room(head.num_bytes, value, lambda name: may_evict and name not in needed):
                return False
            self._create(head.name, entry)
            with self._lock:
                self._know(head.name, head.num_bytes, head.seconds, len(head.ids))
                self._rank(head.name, hits)
        return True

    def remove(self, name: str) -> None:
        """Deletes an entry if it is there."""
        with self._writing(), self._lock:
            self._unlink(name)

    def remove_damaged(self, name: str, inode: int | None) -> None:
        """Deletes what was found damaged, unless another file has taken its place (``inode``: of the one that was read)."""
        with self._lock:
            self.damaged += 1
            try:
                if inode is None or os.stat(self._path(name), follow_symlinks=False).st_ino == inode:
                    self._unlink(name)
            except OSError:
                self._forget(name)

    def look(self) -> None:
        """Learns what other processes wrote and deleted since."""
        with self._writing():
            self._look()

    def clear(self) -> None:
        """Deletes all entries of this version, those of other processes too; strangers' files stay."""
        with self._writing():
            self._look()
            with self._lock:
                for name in list(self._sizes):
                    self._unlink(name)

    # Inside ------------------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.kv"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The one writer's turn, among threads and processes. Raises ``OSError``."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _look(self) -> None:
        """Learns what other processes wrote and deleted, and removes what writers that died left. Only in the writer's turn."""
        found: dict[str, int] = {}
        ages: dict[str, int] = {}
        foreign = 0
        with os.scandir(self.folder) as files:
            for file in files:
                if _UNDERWAY.fullmatch(file.name):
                    os.unlink(file.path)  # it is nobody's: this is our turn
                elif _NAME.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                    status = file.stat(follow_symlinks=False)
                    found[file.name[:-3]], ages[file.name[:-3]] = status.st_size, status.st_mtime_ns
                elif file.name != _LOCK:
                    foreign += 1
        with self._lock:
            for name in [name for name in self._sizes if name not in found]:
                self._forget(name)
            unknown = [name for name, size in found.items() if self._sizes.get(name, (-1,))[0] != size]
            for name in sorted(unknown, key=ages.__getitem__):
                foreign += self._meet(name, found[name])
            self.foreign = foreign

    def _meet(self, name: str, num_bytes: int) -> int:
        """Gets to know a file by its first bytes; 1 if it is foreign."""
        try:
            with self._path(name).open("rb") as file:
                fixed = read_fixed(file.read(FIXED_BYTES))
            if fixed.num_bytes != num_bytes or fixed.digest != name[:64]:
                raise DamagedKV(f"{name}: it has {num_bytes} bytes instead of {fixed.num_bytes}")
        except DamagedKV:
            self.damaged += 1
            self._unlink(name)
        except (ForeignKV, OSError):
            self._forget(name)
            return 1
        else:
            self._know(name, num_bytes, fixed.seconds, fixed.num_ids)
            self._rank(name, self._hits.get(name, 1))
        return 0

    def _make_room(self, num_bytes: int, value: float, idle: Callable[[str], bool]) -> bool:
        with self._lock:
            while self._used + num_bytes > self.num_bytes:
                victim = self._ranking.lowest(idle)
                if victim is None or self._ranking.loses(value, victim):
                    return False
                self._ranking.evict(victim)
                self._unlink(victim)
                self.evictions += 1
        return True

    def _create(self, name: str, entry: memoryview) -> None:
        underway = self.folder / f"{name}.part"
        descriptor = os.open(underway, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                done = 0
                while done < len(entry):
                    done += os.write(descriptor, entry[done : done + (1 << 26)])
            finally:
                os.close(descriptor)
            os.rename(underway, self._path(name))
        except BaseException:
            underway.unlink(missing_ok=True)
            raise

    def _saved(self, seconds: float, num_bytes: int) -> float:
        return max(seconds - self._rates.seconds("disk", num_bytes), 0.0)

    def _know(self, name: str, num_bytes: int, seconds: float, num_tokens: int) -> None:
        self._used += num_bytes - self._sizes.get(name, (0,))[0]
        self._sizes[name] = (num_bytes, seconds, num_tokens)

    def _rank(self, name: str, hits: int) -> None:
        num_bytes, seconds, _ = self._sizes[name]
        self._hits[name] = hits
        self._ranking.touch(name, hits, self._saved(seconds, num_bytes), num_bytes)

    def _forget(self, name: str) -> None:
        self._used -= self._sizes.pop(name, (0,))[0]
        self._hits.pop(name, None)
        self._ranking.forget(name)

    def _unlink(self, name: str) -> None:
        self._forget(name)
        self._path(name).unlink(missing_ok=True)


def timed_read(file: EntryFile, place: Place, target: memoryview, rates: Rates) -> None:
    """``EntryFile.read`` that tells ``rates`` how long it took."""
    started = time.perf_counter()
    file.read(place, target)
    rates.observe("disk", place.num_bytes, time.perf_counter() - started)

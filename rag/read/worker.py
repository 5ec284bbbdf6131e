"""Files -> drafts, each parsed in a child process that it cannot harm more than itself. Knows no format.

``open_file`` reads the bytes here, in the parent; the parser sees bytes only. A parser that crashes, hangs, floods or eats
memory costs one file: its process is killed and replaced, and the file is reported as a ``ReadError``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rag.core import Document
from rag.errors import FileTooLarge, RagError, ReadError
from rag.read import child
from rag.read.draft import Draft, Limits
from rag.read.files import RawFile, hash_of, open_file, source_of
from rag.read.media import READERS, Reader, reader_for
from rag.read.process import Died, ParserProcess
from rag.read.wire import Garbled, decode

_MAX_WAITING_BYTES = 64 * 2**20  # of files that were read ahead
_MOST_WORKERS = 8  # unless more are asked for: each is a process of some 100 MiB, and may take up to its limit


@dataclass(frozen=True, slots=True)
class FileRead:
    """What came of one file: a ``draft`` or an ``error``, never both. ``seconds`` is the time in the parser.

    A file that could not even be opened has an empty ``file_hash``.
    """

    path: Path
    source: str
    file_hash: str = ""
    num_bytes: int = 0
    mtime_ns: int = 0
    media_type: str = ""
    draft: Draft | None = None
    error: ReadError | None = None
    seconds: float = 0.0

    def document(self, *, principals: tuple[str, ...] = ("*",), meta: Mapping[str, Any] | None = None) -> Document:
        """The document, its ``media_type`` among its metadata. Raises the ``error`` if there is one."""
        if self.draft is None:
            assert self.error is not None
            raise self.error
        return self.draft.document(self.source, principals=principals, meta={"media_type": self.media_type, **(meta or {})})


def default_num_workers() -> int:
    """One processor less than there are, at least one and at most ``_MOST_WORKERS``."""
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(num_cpus - 1, _MOST_WORKERS))


class ReadPool:
    """Parses files in warm child processes.

    ``files_per_worker``: a process is replaced after so many files; 1 keeps files of people who do not trust each other
    apart. ``readers`` maps suffixes to readers (``{**READERS, ".x": Reader(...)}`` adds one). ``sandbox=False`` parses in
    this process: only for files you wrote yourself. Safe to use from several threads.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        num_workers: int | None = None,
        readers: Mapping[str, Reader] = READERS,
        files_per_worker: int = 256,
        sandbox: bool = True,
    ) -> None:
        num_workers = default_num_workers() if num_workers is None else num_workers
        for name, value in (("num_workers", num_workers), ("files_per_worker", files_per_worker)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if sandbox and os.name != "posix":
            raise RagError("files are read in a child process only on Linux and macOS; sandbox=False reads them in this one")
        self.limits = limits or Limits()
        self.num_workers = num_workers
        self._readers = readers
        self._files_per_worker = files_per_worker
        self._sandbox = sandbox
        # A child dies with the thread that started it (the kernel counts threads, not processes), so each belongs to a
        # thread that lives as long as the pool.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="rag-read")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: set[ParserProcess] = set()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kills the children, whatever they do, and waits for them."""
        with self._lock:
            self._is_closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.end()

    def parse(self, raw: RawFile) -> Draft:
        """The draft of one opened file. Raises ``ReadError`` with the file's path."""
        result = self._submit(raw).result()
        if result.draft is None:
            assert result.error is not None
            raise result.error
        return result.draft

    def document(self, raw: RawFile) -> Document:
        """The document of one opened file. Raises ``ReadError`` with the file's path."""
        return self._submit(raw).result().document()

    def read(self, files: Iterable[Path | RawFile | ReadError], *, within: Sequence[Path] = ()) -> Iterator[FileRead]:
        """Results in the order of ``files``, as they come; errors among ``files`` (of ``walk``, ``open_file``) pass through.

        ``within`` (the roots of the walk): no file outside is opened, should a name have become a link since the walk saw it.
        Reads a few files ahead and holds no more than those, however many there are.
        """
        waiting: deque[tuple[Future[FileRead], int]] = deque()
        try:
            for file in files:
                future, num_bytes = self._start(file, within)
                waiting.append((future, num_bytes))
                while waiting and (
                    waiting[0][0].done()
                    or len(waiting) > 2 * self.num_workers
                    or sum(num_bytes for _, num_bytes in waiting) > _MAX_WAITING_BYTES
                ):
                    yield waiting.popleft()[0].result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()

    def _start(self, file: Path | RawFile | ReadError, within: Sequence[Path]) -> tuple[Future[FileRead], int]:
        if isinstance(file, Path):
            try:
                file = open_file(file, self.limits, within=within)
            except ReadError as error:
                file = error
        if isinstance(file, RawFile):
            return self._submit(file), file.num_bytes
        done: Future[FileRead] = Future()
        done.set_result(FileRead(Path(file.path), source_of(Path(file.path)), error=file))
        return done, 0

    def _submit(self, raw: RawFile) -> Future[FileRead]:
        return self._threads.submit(self._parse, raw)

    def _parse(self, raw: RawFile) -> FileRead:
        start = time.perf_counter()
        result = FileRead(raw.path, raw.source, raw.file_hash, raw.num_bytes, raw.mtime_ns)
        try:
            if raw.num_bytes > self.limits.max_file_bytes:
                raise FileTooLarge(raw.path, f"has {raw.num_bytes} bytes; the limit max_file_bytes is {self.limits.max_file_bytes}")
            reader = reader_for(raw.path, raw.data, self._readers)
            result = replace(result, media_type=reader.media_type)
            draft = self._parse_elsewhere(reader, raw) if self._sandbox else self._parse_here(reader, raw)
            return replace(result, draft=draft, seconds=time.perf_counter() - start)
        except ReadError as error:
            named = type(error)(raw.path, error.reason)
            return replace(result, error=named, seconds=time.perf_counter() - start)

    def _parse_here(self, reader: Reader, raw: RawFile) -> Draft:
        _, text, blob = child.answer(reader.target, raw.data, self.limits, contextlib.nullcontext)
        try:
            return decode(text, blob, self.limits)
        except Garbled as error:
            raise ReadError(raw.path, f"the parser failed: {error}") from error

    def _parse_elsewhere(self, reader: Reader, raw: RawFile) -> Draft:
        while True:
            process = self._warm_process()
            was_fresh = process.num_files == 0
            is_fine = False
            try:
                draft = process.parse(reader, raw.data, self.limits)
                is_fine = True
                return draft
            except ReadError as error:
                is_fine = not isinstance(error, FileTooLarge)  # it may have run out of memory: start afresh
                raise
            except TimeoutError:
                raise FileTooLarge(raw.path, f"takes longer than {self.limits.seconds:g} seconds to read") from None
            except (Died, Garbled) as error:
                reason = process.why_it_died() if isinstance(error, Died) else f"the parser failed: {error}"
                if self._is_closed:
                    raise CancelledError from None
                if was_fresh:  # otherwise something that an earlier file left behind may have done it: try once more
                    raise ReadError(raw.path, reason) from None
            finally:
                if not is_fine or process.num_files >= self._files_per_worker:
                    self._discard(process)

    def _warm_process(self) -> ParserProcess:
        """This thread's process, started if there is none that is fit for work."""
        process: ParserProcess | None = getattr(self._own, "process", None)
        if process is not None and process.is_idle():
            return process
        if process is not None:
            self._discard(process)
        process = ParserProcess()
        with self._lock:
            if not self._is_closed:
                self._processes.add(process)
                self._own.process = process
                return process
        process.end()
        raise CancelledError

    def _discard(self, process: ParserProcess) -> None:
        with self._lock:
            self._processes.discard(process)
        self._own.process = None
        process.end()


def read_file(path: Path | str, limits: Limits | None = None, *, sandbox: bool = True, source: str | None = None) -> Document:
    """Reads one file. ``source`` names it (default: its resolved path). Raises ``ReadError``.

    Starts a process for each call; for many files use ``ReadPool``.
    """
    with ReadPool(limits, num_workers=1, sandbox=sandbox) as pool:
        return pool.document(open_file(Path(path), pool.limits, source=source))


def read_bytes(
    data: bytes, name: str, limits: Limits | None = None, *, sandbox: bool = True, source: str | None = None
) -> Document:
    """Reads an upload: ``name`` only tells the type and names errors; nothing on disk is touched. Raises ``ReadError``."""
    with ReadPool(limits, num_workers=1, sandbox=sandbox) as pool:
        return pool.document(RawFile(Path(name), name if source is None else source, data, hash_of(data), 0))

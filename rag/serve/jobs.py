"""Uploads being ingested: a bounded queue, one worker, and what became of each. Knows the pipeline's face, no HTTP."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rag.core import Document
from rag.errors import RagError, ReadError
from rag.maintain import limits
from rag.pipeline import Rag
from rag.read.worker import read_bytes

_MAX_REMEMBERED = 1000
UPLOAD_PREFIX = "upload:"


class TooBusy(RagError):
    """The queue of jobs is full."""


@dataclass(frozen=True, slots=True)
class Job:
    """One upload. ``documents``: ids of what is in the index now; ``failed``: file name -> reason."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    documents: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    created: float = field(default_factory=time.time)


class Jobs:
    """Ingests uploads one after the other in a thread of its own."""

    def __init__(self, rag: Rag, max_queued: int) -> None:
        self._rag = rag
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: queue.Queue[tuple[str, list[tuple[str, bytes]], tuple[str, ...]] | None] = queue.Queue(max_queued)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, files: Sequence[tuple[str, bytes]], readers: tuple[str, ...]) -> Job:
        """Queues files (name, bytes). Raises ``TooBusy`` if too many are waiting."""
        job = Job(uuid.uuid4().hex, "queued")
        with self._lock:
            try:
                self._waiting.put_nowait((job.id, list(files), readers))
            except queue.Full:
                raise TooBusy(f"{self._waiting.maxsize} uploads are waiting already; try again later") from None
            self._jobs[job.id] = job
            while len(self._jobs) > _MAX_REMEMBERED:
                self._jobs.popitem(last=False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rag-jobs", daemon=True)
                self._thread.start()
        return job

    def get(self, job_id: str) -> Job | None:
        """The job as it stands (``None``: unknown, or long ago)."""
        with self._lock:
            return self._jobs.get(job_id)

    def close(self) -> None:
        """Finishes the job in hand and stops."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _update(self, job_id: str, **changes: object) -> None:
        with self._lock:
            if job_id in self._jobs:
                self._jobs[job_id] = replace(self._jobs[job_id], **changes)  # type: ignore[arg-type]

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            job_id, files, readers = waiting
            self._update(job_id, status="running")
            documents: list[Document] = []
            failed: list[tuple[str, str]] = []
            for name, content in files:
                try:
                    document = read_bytes(content, name, limits(self._rag.config), source=UPLOAD_PREFIX + name)
                    documents.append(replace(document, principals=readers))
                except ReadError as error:
                    failed.append((name, error.reason))
            try:
                self._rag.ingest_documents(documents)
            except (RagError, OSError, ValueError) as error:
                self._update(job_id, status="failed", failed=tuple(failed) + (("", str(error)),))
            else:
                ids = tuple(document.id for document in documents)
                self._update(job_id, status="done" if ids or not failed else "failed", documents=ids, failed=tuple(failed))

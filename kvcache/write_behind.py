"""Carries entries to the disk by a thread of its own. Knows when, not how."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rag.kvcache.entry import Entry


class WriteBehind:
    """A queue of entries and the thread that empties it; the thread lives only while there is something to do.

    ``changed``: the condition of the store's lock, notified after every entry. ``write`` is called without the lock.
    """

    def __init__(self, changed: threading.Condition, write: Callable[[Entry], None]) -> None:
        self._changed, self._write = changed, write
        self._queue: deque[Entry] = deque()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an entry is waiting or being written. The lock is held."""
        return self._thread is not None

    def add(self, entry: Entry) -> None:
        """It will be written, and stays in memory until then. The lock is held."""
        entry.writing = True
        self._queue.append(entry)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kv-write", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Returns when nothing is waiting any more. The lock is not held."""
        with self._changed:
            self._changed.wait_for(lambda: not self.busy)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._thread = None
                    self._changed.notify_all()
                    return
                entry = self._queue.popleft()
            try:
                self._write(entry)
            except BaseException:
                with self._changed:
                    for waiting in self._queue:
                        waiting.writing = False
                    self._queue.clear()
                    self._thread = None
                raise
            finally:
                with self._changed:
                    entry.writing = False
                    self._changed.notify_all()

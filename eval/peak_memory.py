"""The most memory that this process held while something ran. Knows the system's counters; knows no stage.

Linux keeps the greatest resident size since a mark that a process may set anew (``/proc/self/clear_refs``). Elsewhere only the greatest of the
whole life of the process is known, and stages have none.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS, _MARK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # man 5 proc: resets the peak resident set size, and nothing else


class PeakMemory:
    """Megabytes (2**20 bytes) of resident memory, code and weights included."""

    def __init__(self) -> None:
        self._highest_mb = 0.0
        self._is_marked = self._mark()

    def since_mark_mb(self) -> float | None:
        """The peak since this was asked last (or since the beginning); ``None`` where the system does not tell. Sets the mark anew."""
        if not self._is_marked:
            return None
        peak = self._peak_mb()
        self._highest_mb = max(self._highest_mb, peak)
        self._is_marked = self._mark()
        return peak

    def highest_mb(self) -> float:
        """The peak of the whole process, as far as it was watched."""
        known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return max(self._highest_mb, known)  # a mark set anew makes the system's own figure smaller

    def _mark(self) -> bool:
        try:
            self._highest_mb = max(self._highest_mb, self._peak_mb())
            _MARK.write_text(_RESET_PEAK, encoding="ascii")
        except (OSError, ValueError):
            return False
        return True

    def _peak_mb(self) -> float:
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
        raise ValueError("the status of the process has no peak")

"""A fixed amount of memory, lent out in pieces. Knows no entry; whoever borrows decides who gives back.

One allocation for good: the budget cannot be passed, pages are touched once, pinning is paid once, and a device's own allocator
is not asked for sizes that it rounds up.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

from rag.kvcache.slab import ALIGNMENT, padded

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Pool:
    """``num_bytes`` on ``device``; ``pinned``: locked in host memory, so that a GPU can fetch from it by itself.

    Not thread safe: the store's lock is held around every call.
    """

    def __init__(self, num_bytes: int, device: torch.device | str = "cpu", pinned: bool = False) -> None:
        import torch

        self.num_bytes = num_bytes // ALIGNMENT * ALIGNMENT
        with torch.inference_mode(False):  # what is made inside could not be written outside
            whole = torch.empty(self.num_bytes + ALIGNMENT, dtype=torch.uint8, device=device)
        start = -whole.data_ptr() % ALIGNMENT
        self._memory = whole[start : start + self.num_bytes]
        if pinned and self.num_bytes:
            _pin(self._memory)
        self._free = [(0, self.num_bytes)] if self.num_bytes else []  # (start, end), ascending, never touching
        self._lent: dict[int, int] = {}
        self.num_lent_bytes = 0

    def lend(self, num_bytes: int) -> Tensor | None:
        """A uint8 tensor ``[num_bytes]`` from the smallest gap that holds it; ``None`` if none does."""
        size = padded(num_bytes)
        fitting = [(end - start, start) for start, end in self._free if end - start >= size]
        if not fitting:
            return None
        _, start = min(fitting)
        number = bisect.bisect_left(self._free, (start, 0))
        _, end = self._free[number]
        self._free[number : number + 1] = [(start + size, end)] if start + size < end else []
        self._lent[start] = size
        self.num_lent_bytes += size
        return self._memory[start : start + num_bytes]

    def take_back(self, piece: Tensor) -> None:
        """Ends a loan."""
        start = piece.data_ptr() - self._memory.data_ptr()
        size = self._lent.pop(start)
        self.num_lent_bytes -= size
        end = start + size
        number = bisect.bisect_left(self._free, (start, 0))
        if number < len(self._free) and self._free[number][0] == end:
            end = self._free.pop(number)[1]
        if number and self._free[number - 1][1] == start:
            number -= 1
            start = self._free.pop(number)[0]
        self._free.insert(number, (start, end))


def _pin(memory: Tensor) -> None:
    """Locks memory that is there already: ``pin_memory=True`` would round its size up to a power of two."""
    import torch

    runtime: Any = torch.cuda
    error = runtime.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(error):
        raise ValueError(f"{memory.numel()} bytes of host memory cannot be pinned for the GPU (error {int(error)}); ask for fewer")

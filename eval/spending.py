"""What a call costs: seconds, encoder calls, language model calls and tokens, peak of memory. Knows counters; knows no stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rag.eval.chain_models import CountedEncoder
from rag.eval.peak_memory import PeakMemory
from rag.lm_metered import LMUsage, MeteredLM

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Spent:
    """``peak_memory_mb`` is that of the process, 0 where the system does not tell. A sum has the greater peak."""

    seconds: float = 0.0
    encoder_calls: int = 0
    lm_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    peak_memory_mb: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.encoder_calls + other.encoder_calls,
            self.lm_calls + other.lm_calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            max(self.peak_memory_mb, other.peak_memory_mb),
        )


class Meter:
    """Measures calls by what ``encoders`` and ``lms`` count and by the memory of the process."""

    def __init__(self, memory: PeakMemory, encoders: Sequence[CountedEncoder], lms: Sequence[MeteredLM]) -> None:
        self._memory, self._encoders, self._lms = memory, encoders, lms

    @property
    def encoder_calls(self) -> int:
        """Of all encoders, up to now."""
        return sum(encoder.num_encode_calls for encoder in self._encoders)

    def measured(self, make: Callable[[], _T]) -> tuple[_T, Spent]:
        """What ``make`` gives, and what that cost."""
        encoder_calls, used = self.encoder_calls, self._used()
        self._memory.since_mark_mb()
        began = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - began
        asked = self._used() - used
        peak_mb = self._memory.since_mark_mb() or 0.0
        calls = self.encoder_calls - encoder_calls
        return made, Spent(seconds, calls, asked.calls, asked.prompt_tokens, asked.completion_tokens, peak_mb)

    def _used(self) -> LMUsage:
        return sum((lm.usage() for lm in self._lms), LMUsage())

"""A language model that knows how much each passage is worth, and may like some positions better than others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from rag.core import Chunk, Completion, Document, Hit, Prompt, Span
from tests.fakes import ToyLM

_PASSAGE = re.compile(r"^Passage ?(\[?\w*\]?):\n((?:>.*\n)+)", re.MULTILINE)
_WORTH = re.compile(r"worth (-?\d+(?:\.\d+)?)")


def hits(worths: Sequence[float], filler: str = "") -> list[Hit]:
    """One hit for each worth, in that order, each of a document of its own; incoming scores fall."""
    found = []
    for number, worth in enumerate(worths):
        text = f"This is worth {worth}.{filler}"
        document = Document(Document.id_of(str(number)), str(number), text)
        found.append(Hit(Chunk.of(document, Span(0, len(text))), 1.0 / (1 + number)))
    return found


def worth_of(text: str) -> float:
    match = _WORTH.search(text)
    return float(match[1]) if match else 0.0


def shown(prompt: str) -> list[tuple[str, float]]:
    """Label and worth of each passage of a prompt."""
    return [(label, worth_of(text)) for label, text in _PASSAGE.findall(prompt)]


class OracleLM(ToyLM):
    """Choices are as likely as the worth of what they name, in nats; ``bias(place, count)`` is added for the place in the prompt.

    yes / no: the worth is the log-odds. Digits: the worth is the grade. A continuation: the worth is its log-probability per word.
    ``complete`` writes the order as ``[2] > [1]``. A prompt longer than the context is an error.
    """

    def __init__(self, context_tokens: int | None = None, bias: Callable[[int, int], float] = lambda place, count: 0.0) -> None:
        super().__init__(context_tokens)
        self.bias = bias
        self.num_asked = 0

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        rows = []
        for text in self._read(prompts):
            passages = shown(text)
            if tuple(choices) == ("yes", "no"):
                logits = [passages[0][1], 0.0]
            elif choices[0] == "0":
                logits = [-abs(int(choice) - passages[0][1]) * 50 for choice in choices]
            else:
                assert [label for label, _ in passages] == list(choices)
                logits = [worth + self.bias(place, len(passages)) for place, (_, worth) in enumerate(passages)]
            largest = max(logits)
            total = largest + math.log(math.fsum(math.exp(value - largest) for value in logits))
            rows.append([value - total for value in logits])
        return rows

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        worths = [shown(text)[0][1] for text in self._read(prompts)]
        return [worth * len(ending.split()) for worth, ending in zip(worths, continuations, strict=True)]

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        found = []
        for text in self._read(prompts):
            passages = shown(text)
            ranked = sorted(passages, key=lambda pair: -(pair[1] + self.bias(passages.index(pair), len(passages))))
            found.append(Completion(" > ".join(label for label, _ in ranked), 0, 0, "stop"))
        return found

    def _read(self, prompts: Sequence[Prompt]) -> list[str]:
        for prompt in prompts:
            assert self.context_tokens is None or self.count_tokens(prompt) < self.context_tokens
        self.num_asked += len(prompts)
        return self._asked(prompts)

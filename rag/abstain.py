"""Whether the sources answer a question at all, or in part, decided before it is answered. Knows a generator and scores; knows no index.

The decision is one number, 0 to 1, and two thresholds. The number is the chance that a language model gives to *yes, they answer it*, or
without a model the support that the extractive generator finds. The thresholds come from labelled questions (``calibrate``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rag.core import LM, Chunk, Encoder, Event, Generator, Hit, Message, StageEvent, Support, TextEvent, Usage, UsageEvent
from rag.errors import ConfigError
from rag.extractive import ExtractiveGenerator
from rag.forms import DATA_RULE, room_for
from rag.prompt import ABSTENTION, sourced_prompt

SUFFICIENT = f"""You judge whether numbered sources hold everything that is needed to answer a question. Being near the subject is not enough.
{DATA_RULE}
Reply with one word, Yes or No."""

PARTLY = "The sources answer this only in part."


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds of a score: from ``min_full`` on the sources answer the question, from ``min_partly`` on a part of it.

    ``target``, ``full_target`` and the counts say what they were chosen for and on. Plain JSON on disk. Raises ``ValueError`` unless
    ``0 <= min_partly <= min_full <= 1``.
    """

    min_partly: float
    min_full: float
    target: float | None = None
    full_target: float | None = None
    num_full: int = 0
    num_partly: int = 0
    num_none: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_partly <= self.min_full <= 1:
            raise ValueError(f"min_partly={self.min_partly}, min_full={self.min_full}: must be 0 <= min_partly <= min_full <= 1")

    def support(self, score: float) -> Support:
        """How much of the question the sources answer."""
        return "full" if score >= self.min_full else "partly" if score >= self.min_partly else "none"

    def save(self, path: Path | str) -> None:
        """Writes it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Calibration:
        """What ``save`` wrote. Raises ``ConfigError`` that names the file."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"cannot read the calibration {path}: {error.strerror}") from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path} is no calibration: {error}") from None


def calibrate(
    scores: Sequence[float], labels: Sequence[Support], target: float = 0.9, full_target: float | None = None
) -> Calibration:
    """The highest thresholds that keep a share of the questions that ought to be kept.

    ``scores``: 0 to 1, higher where the sources answer more; ``labels``: how much they do, judged by people. ``min_partly``: at
    least ``target`` of the questions labelled ``full`` or ``partly`` score as much, so that they are answered. ``min_full``: at least
    ``full_target`` (default: ``target``) of those labelled ``full`` do, so that their answers carry no reservation; lower, and more
    of the answers to a part carry one. How many of the others are declined then is what the scores are worth; measure it on
    other questions. Raises ``ValueError`` for lengths that differ, values out of range, or labels without ``full``.
    """
    full_target = target if full_target is None else full_target
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores but {len(labels)} labels")
    for name, share in (("target", target), ("full_target", full_target)):
        if not 0 < share <= 1:
            raise ValueError(f"{name}={share}: must be above 0 and at most 1")
    if bad := [score for score in scores if not 0 <= score <= 1]:
        raise ValueError(f"the score {bad[0]} is not between 0 and 1")
    if unknown := set(labels) - {"full", "partly", "none"}:
        raise ValueError(f"unknown label {min(map(repr, unknown))}; allowed: full, partly, none")
    by_label = {
        label: [score for score, each in zip(scores, labels, strict=True) if each == label] for label in ("full", "partly", "none")
    }
    if not by_label["full"]:
        raise ValueError("no question is labelled 'full': there is nothing to calibrate on")
    min_full = _keeping(by_label["full"], full_target)
    min_partly = min(_keeping(by_label["full"] + by_label["partly"], target), min_full)
    return Calibration(min_partly, min_full, target, full_target, *(len(by_label[label]) for label in ("full", "partly", "none")))


def _keeping(scores: Sequence[float], target: float) -> float:
    """The highest threshold that at least the share ``target`` of ``scores`` reaches."""
    num_kept = math.ceil(target * len(scores) - 1e-9)
    return sorted(scores, reverse=True)[num_kept - 1]


class AbstainGenerator:
    """Asks first whether the hits answer the question; lets ``generator`` answer if they do, says so if only in part, else declines.

    ``by``: ``lm`` (the chance of *yes* when ``lm`` is asked, in one scored question, whether the sources suffice) or ``support`` (no
    model but ``encoder``, if there is one: the support of the best sentence, see ``use: extractive``); default: ``lm`` where ``models.lm`` is
    configured. ``min_partly``, ``min_full``: thresholds of that number; ``calibration``: a file that ``Calibration.save`` wrote, which has
    both. The defaults without either are 0.2 and 0.5 for ``lm``, a guess: calibrate. For ``support`` they are 0.40 and 0.45, with words alone
    0.35 and 0.40, near what ``bench/support.py`` finds on MTRAG-UN (all-MiniLM-L6-v2, ``query: {use: carry}``): thresholds set to answer 90 % of
    the answerable turns answer 89 and 92 % of those of the other conversations, and decline 63 and 51 % of the turns that the sources do
    not answer (AUROC 0.83, 0.78 to 0.88). Answers to a part are seldom told from full ones: that takes a language model.

    An answer to a part ends with ``partly``. ``Answer.support`` says which of the three it was; where ``generator`` itself declines, that stands.
    """

    def __init__(
        self,
        generator: Generator,
        lm: LM | None = None,
        encoder: Encoder | None = None,
        by: Literal["lm", "support"] | None = None,
        min_partly: float | None = None,
        min_full: float | None = None,
        calibration: str | None = None,
        partly: str = PARTLY,
        abstention: str = ABSTENTION,
        max_prompt_tokens: int = 6000,
    ) -> None:
        if by not in (None, "lm", "support"):
            raise ValueError(f"by={by!r}: allowed are lm, support")
        if by == "lm" and lm is None:
            raise ConfigError("generator abstain with `by: lm` needs a model: add `models: {lm: {use: ...}}` to the configuration")
        if max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens={max_prompt_tokens}: must be at least 1")
        if calibration is not None and (min_partly is not None or min_full is not None):
            raise ValueError("calibration: a file with both thresholds; give it or min_partly and min_full, not both")
        self.generator = generator
        self.by = by or ("support" if lm is None else "lm")
        self.partly = partly
        self.abstention = abstention
        self.max_prompt_tokens = max_prompt_tokens
        self._lm = lm
        self._extractive = ExtractiveGenerator(encoder)
        low, high = (0.2, 0.5) if self.by == "lm" else (0.35, 0.40) if encoder is None else (0.40, 0.45)
        low = low if min_partly is None else min_partly
        given = Calibration(low, max(high, low) if min_full is None else min_full)
        self.thresholds = given if calibration is None else Calibration.load(calibration)

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """What ``generator`` prepares."""
        self.generator.prepare(chunks)

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """What ``generator`` deletes."""
        return self.generator.keep_only(chunks)

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """The events of ``generator``, with a reservation at the end if need be; or the abstention, after the hits that were looked at.

        The usage says how much was supported.
        """
        score, usage = self.score(query, hits)
        support = self.thresholds.support(score) if hits else "none"
        if support == "none":
            yield StageEvent("prompt", tuple(hits), 0.0)
            yield TextEvent(self.abstention)
            yield UsageEvent(usage, abstained=True)
            return
        for event in self.generator.generate(query, hits):
            if isinstance(event, UsageEvent):
                support = min(support, event.support, key=("none", "partly", "full").index)
                if support == "partly" and self.partly:
                    yield TextEvent(f" {self.partly}")
                event = UsageEvent(usage + event.usage, event.abstained, support)
            yield event

    def score(self, query: str, hits: Sequence[Hit]) -> tuple[float, Usage]:
        """How sure it is that ``hits`` answer ``query``, 0 to 1, and what finding out cost. No hits: 0."""
        if not hits or not query.strip():
            return 0.0, Usage()
        if self.by == "support" or self._lm is None:
            return self._extractive.support(query, hits), Usage()
        room = room_for(self._lm, self.max_prompt_tokens, 1)
        prompt = sourced_prompt(query, hits, max_tokens=room, count=self._lm.count_tokens, system=SUFFICIENT)
        *before, last = prompt.messages
        asked = [*before, Message("user", f"{last.content}\n\nDo the sources hold everything that the answer needs? Yes or No?")]
        ((yes, no),) = self._lm.score([asked], ("yes", "no"))
        chance = 0.5 if yes == no else 1 / (1 + math.exp(min(no - yes, 700.0)))
        return chance, Usage(self._lm.count_tokens(asked), 0, 1)

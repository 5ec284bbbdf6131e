"""What a full-chain run found, question by question and stage by stage, as JSON. Knows no pipeline and draws nothing.

The stages of a chain, in order: ``read`` (is it in the extracted text?), ``chunk`` (is it whole in one chunk, or in adjacent ones?), the
indexes by name, ``retrieve`` (in the hits of any index), ``fuse``, ``rerank:<word>``, ``select``, ``prompt`` (what the generator was shown), ``answer``. A
stage that a configuration does not have is missing. The first stage that lost something which the stage before still had is
where a question was lost: ``lost_at``. Single indexes lose no question, ``retrieve`` does. Where a chunk boundary tore what was to be found and
a later stage kept only a part of it, ``chunk`` lost it, though all chunks together still have it (see ``rag.eval.chain_stages``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 2


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(_Record):
    """A mean over questions with its 95 % bootstrap interval; ``num_failed`` questions could not be measured and are not in it."""

    mean: float
    low: float
    high: float
    num_questions: int
    num_failed: int = 0


class Passage(_Record):
    """Characters ``start:end`` of the document ``source`` as a stage saw them. ``score`` and ``rank`` are that stage's own."""

    source: str
    start: int
    end: int
    score: float | None = None
    rank: int | None = None
    text: str | None = None


class StageOutcome(_Record):
    """What one stage had for one question: per information point whether it was there, without and with the coarse filter."""

    stage: str
    found: list[bool]
    found_filtered: list[bool]
    passages: list[Passage] = []
    seconds: float | None = None


class AnswerOutcome(_Record):
    """The answer. ``measures``: name -> number; ``failures``: name -> why it could not be measured (a failed judgement, ...)."""

    text: str
    abstained: bool
    citations: list[Passage] = []
    measures: dict[str, float] = {}
    failures: dict[str, str] = {}


class QuestionOutcome(_Record):
    """One question under one configuration. ``points``: the information points as text. ``measures``: ``<stage>/<measure>`` -> number.
    ``unlocated``: information points that stand nowhere in the set's documents: no stage is judged by them.

    ``cost``: ``seconds/<stage>``, ``prompt_tokens``, ``completion_tokens``, ``cached_tokens``, ``lm_calls``, ``encoder_calls``, ... ``error``: why the
    chain broke off, if it did: such a question counts as lost at the stage that failed. ``reused``: stages whose output had been made
    before, for another configuration or in an earlier run; their cost is that of when it was made.
    """

    id: str
    question: str
    type: str
    answerable: str
    reference: str | None = None
    points: list[str] = []
    unlocated: list[str] = []
    evidence: list[Passage] = []
    stages: list[StageOutcome] = []
    answer: AnswerOutcome | None = None
    lost_at: str | None = None
    measures: dict[str, float] = {}
    cost: dict[str, float] = {}
    reused: list[str] = []
    error: str | None = None


class StageSummary(_Record):
    """One stage over all questions with information points. ``num_lost``: questions whose ``lost_at`` it is."""

    stage: str
    recall: Estimate
    accuracy: Estimate
    recall_filtered: Estimate
    accuracy_filtered: Estimate
    num_lost: int
    measures: dict[str, Estimate] = {}
    seconds_median: float | None = None


class ConfigOutcome(_Record):
    """One configuration. ``..._by_budget``: returned tokens -> token recall, precision and IoU of the evidence. ``cost``: name -> mean per
    question.
    """

    name: str
    config: dict[str, Any]
    stages: list[StageSummary]
    answers: dict[str, Estimate] = {}
    cost: dict[str, float] = {}
    ingest: dict[str, float] = {}
    recall_by_budget: dict[int, Estimate] = {}
    precision_by_budget: dict[int, Estimate] = {}
    iou_by_budget: dict[int, Estimate] = {}
    questions: list[QuestionOutcome]


class Compared(_Record):
    """A paired difference ``config - baseline`` of one measure; ``p_adjusted`` is corrected for all comparisons of the report (Holm)."""

    measure: str
    config: str
    baseline: str
    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float
    inside_noise: bool
    num_questions: int


class ChainReport(_Record):
    """A whole run. ``remarks`` say in words what a reader must know (sets left out, failures, no point could be located, ...)."""

    format: int = FORMAT
    name: str
    created: str
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    seed: int = 0
    num_questions: int
    num_documents: int
    baseline: str | None = None
    configs: list[ConfigOutcome]
    comparisons: list[Compared] = []
    documents: dict[str, str] = Field(default_factory=dict, description="source -> canonical text, of documents with evidence")
    remarks: list[str] = []

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(self.model_dump_json(exclude_none=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ChainReport:
        """Reads what ``save`` wrote. Raises ``ValueError`` if it is something else."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

"""Makes full-chain reports that look like real ones. Everything in them is drawn from a seed: they measure nothing."""

from __future__ import annotations

import random

from rag.eval.bootstrap import difference, interval
from rag.eval.chain_report import (
    AnswerOutcome,
    ChainReport,
    Compared,
    ConfigOutcome,
    Estimate,
    Passage,
    QuestionOutcome,
    StageOutcome,
    StageSummary,
)
from rag.eval.report_values import values_of

NAMES = ("structure 256, convex", "fixed 128, bm25 only", "late, rerank 30", "spatial, setwise")
STAGES = ("read", "chunk", "dense", "sparse", "retrieve", "fuse", "rerank:cross-encoder", "select", "prompt", "answer")
LOSSES = {
    "read": 0.01,
    "chunk": 0.04,
    "retrieve": 0.05,
    "fuse": 0.02,
    "rerank:cross-encoder": 0.03,
    "select": 0.08,
    "prompt": 0.01,
    "answer": 0.09,
}
TYPES = ("factual", "factual", "analytical", "comparative", "tutorial")
WORDS = [
    "valve",
    "pressure",
    "limit",
    "engine",
    "review",
    "permit",
    "river",
    "turbine",
    "archive",
    "council",
    "budget",
    "sensor",
    "meadow",
    "harbour",
    "winter",
    "treaty",
    "filter",
    "ledger",
    "compound",
    "signal",
    "mortar",
    "witness",
    "orchard",
    "margin",
    "vessel",
    "copper",
    "lantern",
    "charter",
    "protocol",
    "granite",
    "ferry",
    "parish",
    "ration",
    "beacon",
]
_DRAWS = 200


def sentence(draw: random.Random) -> str:
    """Words in a row, with a full stop."""
    return " ".join(draw.choices(WORDS, k=draw.randint(7, 16))).capitalize() + ". "


def generated_report(
    num_questions: int = 40, num_configs: int = 4, seed: int = 0, *, answers: bool = True, num_passages: int = 12
) -> ChainReport:
    """``num_configs`` configurations over ``num_questions`` generated questions about generated documents."""
    draw = random.Random(seed)
    documents = {
        f"folder/report-{number}.pdf": "".join(sentence(draw) for _ in range(60)) for number in range(max(2, num_questions // 8))
    }
    questions = [_question(draw, f"q{number:04}", documents) for number in range(num_questions)]
    names = [NAMES[number] if number < len(NAMES) else f"generated {number}" for number in range(num_configs)]
    configs = [
        _config(random.Random(seed * 1000 + number), name, number, questions, documents, answers, num_passages)
        for number, name in enumerate(names)
    ]
    return ChainReport(
        name="generated",
        created="2026-01-31T12:00:00+00:00",
        versions={"ragstone": "0.1.0"},
        machine={"cpu": "generated", "cores": "2"},
        seed=seed,
        num_questions=num_questions,
        num_documents=len(documents),
        baseline=names[0],
        configs=configs,
        comparisons=_compared(configs, answers),
        documents=documents,
        remarks=["Every number of this report is generated: it measures nothing."],
    )


def _question(draw: random.Random, name: str, documents: dict[str, str]) -> QuestionOutcome:
    source = draw.choice(sorted(documents))
    text = documents[source]
    stops = [place for place in range(len(text) - 1) if text[place] == "."]
    evidence = []
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(stops) - 1)
        evidence.append(
            Passage(
                source=source, start=stops[place] + 2, end=stops[place + 1] + 1, text=text[stops[place] + 2 : stops[place + 1] + 1]
            )
        )
    answerable = "no" if draw.random() < 0.06 else "yes"
    points = [str(each.text)[:60] for each in evidence] if answerable == "yes" else []
    return QuestionOutcome(
        id=name,
        question="What does the " + " ".join(draw.sample(WORDS, 5)) + " say?",
        type=draw.choice(TYPES),
        answerable=answerable,
        reference=evidence[0].text,
        points=points,
        evidence=evidence if points else [],
    )


def _config(
    draw: random.Random,
    name: str,
    number: int,
    questions: list[QuestionOutcome],
    documents: dict[str, str],
    answers: bool,
    num_passages: int,
) -> ConfigOutcome:
    stages = [
        stage
        for stage in STAGES
        if (answers or stage != "answer") and (number != 1 or stage not in ("dense", "fuse", "rerank:cross-encoder"))
    ]
    outcomes = [_outcome(draw, number, question, stages, documents, num_passages) for question in questions]
    seconds = {f"seconds/{stage}": (0.4 if stage == "answer" else 0.01) * (1 + number) for stage in stages[2:]}
    cost = {**seconds, "prompt_tokens": 900.0 + 350 * number, "completion_tokens": 60.0, "lm_calls": 1.0 + number}
    budgets = {
        budget: _estimate([min(1.0, draw.gauss(0.25 * step + 0.03 * number, 0.2)) for _ in questions])
        for step, budget in enumerate((100, 200, 400, 800), 1)
    }
    measured = {
        measure: [q.answer.measures[measure] for q in outcomes if q.answer and measure in q.answer.measures]
        for measure in ("token_f1", "exact_match")
    }
    return ConfigOutcome(
        name=name,
        config={"chunker": {"use": "structure", "max_tokens": 128 * (number + 1)}},
        stages=[_summary(stage, outcomes) for stage in stages],
        answers={measure: _estimate(values) for measure, values in measured.items() if values},
        cost=cost,
        ingest={"seconds": 12.5 * (number + 1), "chunks": 4000.0 // (number + 1), "index_mb": 3.25},
        recall_by_budget=budgets,
        precision_by_budget=budgets,
        iou_by_budget=budgets,
        questions=outcomes,
    )


def _outcome(
    draw: random.Random, number: int, question: QuestionOutcome, stages: list[str], documents: dict[str, str], num_passages: int
) -> QuestionOutcome:
    had, lost_at, made = [True] * len(question.points), None, []
    for stage in stages:
        now = had
        if stage in LOSSES:
            kept = 1 - LOSSES[stage] * (1.6 if number == 1 else 1 - 0.12 * (number % 7))
            had = now = [point and draw.random() < kept for point in had]
        elif stage in ("dense", "sparse"):
            now = [point and draw.random() < 0.8 for point in had]
        if lost_at is None and stage in LOSSES and not all(now):
            lost_at = stage
        passages = [] if stage in ("read", "chunk", "answer") else _passages(draw, question, documents, num_passages, all(now))
        made.append(
            StageOutcome(
                stage=stage,
                found=now,
                found_filtered=[each and draw.random() < 0.95 for each in now],
                passages=passages,
                seconds=draw.random() / 50,
            )
        )
    answer = None
    if "answer" in stages:
        right = all(had)
        failed = {"faithfulness": "the judge gave no number"} if draw.random() < 0.03 else {}
        measures = {
            "token_f1": draw.uniform(0.6, 1) if right else draw.uniform(0, 0.5),
            "exact_match": float(right and draw.random() < 0.5),
        }
        text = f"{question.reference or 'Nothing'} [1]" if question.points else "The documents do not say."
        answer = AnswerOutcome(
            text=text, abstained=not question.points, citations=question.evidence[:1], measures=measures, failures=failed
        )
    cost = {"seconds/select": 0.01, "prompt_tokens": float(draw.randint(500, 1500))}
    return question.model_copy(
        update={"stages": made, "answer": answer, "lost_at": lost_at, "cost": cost, "measures": {"fuse/ndcg@10": draw.random()}}
    )


def _passages(
    draw: random.Random, question: QuestionOutcome, documents: dict[str, str], num_passages: int, found: bool
) -> list[Passage]:
    """The stages of a chain see the same few passages in another order."""
    own = random.Random(question.id)
    made = []
    for _ in range(2 * num_passages):
        source = own.choice(sorted(documents))
        start = own.randrange(len(documents[source]) - 400)
        made.append(Passage(source=source, start=start, end=start + 400))
    made = draw.sample(made, num_passages)
    if found and question.evidence:
        first = question.evidence[0]
        start = max(0, first.start - 150)
        made[draw.randrange(min(3, num_passages))] = Passage(source=first.source, start=start, end=first.end + 100)
    return [
        passage.model_copy(update={"rank": rank, "score": round(1 - 0.06 * rank, 3)}) for rank, passage in enumerate(made, start=1)
    ]


def _estimate(values: list[float]) -> Estimate:
    found = interval(values, num_resamples=_DRAWS)
    return Estimate(mean=found.mean, low=found.low, high=found.high, num_questions=len(values), num_failed=0)


def _summary(stage: str, outcomes: list[QuestionOutcome]) -> StageSummary:
    of_points = [each for outcome in outcomes if outcome.points for each in outcome.stages if each.stage == stage]
    shares = {
        "recall": [sum(each.found) / len(each.found) for each in of_points],
        "accuracy": [float(all(each.found)) for each in of_points],
        "recall_filtered": [sum(each.found_filtered) / len(each.found) for each in of_points],
        "accuracy_filtered": [float(all(each.found_filtered)) for each in of_points],
    }
    lost = sum(outcome.lost_at == stage for outcome in outcomes)
    estimates = {name: _estimate(values).model_dump() for name, values in shares.items()}
    return StageSummary.model_validate({"stage": stage, "num_lost": lost, "seconds_median": 0.0123, **estimates})


def _compared(configs: list[ConfigOutcome], answers: bool) -> list[Compared]:
    made = []
    for config in configs[1:]:
        for measure in ("recall@select", "recall@answer") if answers else ("recall@select",):
            first, second = values_of(config, measure), values_of(configs[0], measure)
            found = difference(list(first.values()), list(second.values()), num_resamples=_DRAWS)
            adjusted = min(1.0, found.p * 2 * (len(configs) - 1))
            made.append(
                Compared(
                    measure=measure,
                    config=config.name,
                    baseline=configs[0].name,
                    mean=found.mean,
                    low=found.low,
                    high=found.high,
                    p=found.p,
                    p_adjusted=adjusted,
                    inside_noise=found.low <= 0 <= found.high or adjusted >= 0.05,
                    num_questions=found.num_queries,
                )
            )
    return made

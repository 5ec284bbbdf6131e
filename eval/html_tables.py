"""The tables of the report page: answers, comparisons, costs, types of questions, the list of questions, how it was made.

Knows the report; what is drawn stands in ``html_sections``. ``n`` stands beside every number that is a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.eval.bootstrap import interval
from rag.eval.chain_report import ChainReport, ConfigOutcome, Estimate, QuestionOutcome
from rag.eval.html_sections import charted, config_cell, named, section, share
from rag.eval.html_shapes import cut
from rag.eval.html_text import Cell, Safe, join, number, table, tag
from rag.eval.report_values import SECONDS, default_measure, total_cost, unlocated_of, value_of
from rag.eval.report_words import is_share, said, signed, verdict

_DRAWS = 2_000
MAX_LISTED = 100
"""Questions in the list that stands on the page without a script."""


def answers(report: ChainReport) -> Safe | None:
    """The measures of the answers, if there are any."""
    names = list(dict.fromkeys(name for config in report.configs for name in config.answers))
    if not names:
        return None
    rows = [
        [config_cell(key, config), *(_answer_cell(name, config.answers.get(name)) for name in names)]
        for key, config in named(report)
    ]
    head = ["configuration", *(said(name) + (", %" if is_share(name) else "") for name in names)]
    note = "Means over questions with 95 % intervals. n counts the questions that could be measured; failed ones are counted beside it and are not in the mean."
    return section("answers", "Answers", table("Measures of the answers", head, rows), note=note)


def _answer_cell(name: str, estimate: Estimate | None) -> Cell:
    if estimate is None:
        return number("")
    factor, digits = (100, 1) if is_share(name) else (1, 3)
    mean = tag("span", f"{factor * estimate.mean:.{digits}f}", class_="mean")
    failed = f", {estimate.num_failed} failed" if estimate.num_failed else ""
    spread = f"{factor * estimate.low:.{digits}f} to {factor * estimate.high:.{digits}f}, n = {estimate.num_questions:,}{failed}"
    return number(join([mean, tag("span", spread, class_="interval")]), estimate.mean)


def comparisons(report: ChainReport) -> Safe | None:
    """Every configuration against the baseline."""
    if not report.comparisons:
        return None
    keys = {config.name: key for key, config in named(report)}
    rows: list[list[Cell | str]] = []
    for each in report.comparisons:
        spread = f"{signed(each.measure, each.low)} to {signed(each.measure, each.high)}"
        rows.append(
            [
                Cell(join([tag("b", keys.get(each.config, ""), class_="key"), each.config])),
                said(each.measure),
                number(
                    join([tag("span", signed(each.measure, each.mean), class_="mean"), tag("span", spread, class_="interval")]),
                    each.mean,
                ),
                number(f"{each.num_questions:,}", each.num_questions),
                number(f"{each.p:.4f}", each.p),
                number(f"{each.p_adjusted:.4f}", each.p_adjusted),
                tag("span", verdict(each), class_="noise" if each.inside_noise else "told"),
            ]
        )
    head = ["configuration", "measure", "difference (points)", "n", "p", "p, adjusted", "in words"]
    against = ", ".join(dict.fromkeys(f"{keys.get(each.baseline, '')} ({each.baseline})" for each in report.comparisons))
    note = (
        f"Paired differences against {against}, question by question, with 95 % intervals; shares in points of per cent. The adjusted p is corrected for all "
        f"{len(report.comparisons)} comparisons of this table (Holm). Inside the noise: these questions cannot tell the two apart."
    )
    return section("comparisons", "Against the baseline", table("Comparisons", head, rows), note=note)


def costs(report: ChainReport) -> Safe | None:
    """What a question costs, and what the index did."""
    per_question = list(dict.fromkeys(name for config in report.configs for name, spent in total_cost(config).items() if spent))
    ingest = list(dict.fromkeys(name for config in report.configs for name, spent in config.ingest.items() if spent))
    if not (per_question or ingest):
        return None
    head = [
        "configuration",
        "n",
        *(_cost_title(name) for name in per_question),
        *(f"ingest: {name.replace('_', ' ')}" for name in ingest),
    ]
    rows: list[list[Cell | str]] = []
    for key, config in named(report):
        spent = total_cost(config)
        cells = [number(f"{spent[name]:,.4g}", spent[name]) if name in spent else number("") for name in per_question]
        cells += [
            number(f"{config.ingest[name]:,.4g}", config.ingest[name]) if name in config.ingest else number("") for name in ingest
        ]
        rows.append([config_cell(key, config), number(f"{len(config.questions):,}", len(config.questions)), *cells])
    parts = [table("Cost: means per question, and of making the index", head, rows, class_="titled")]
    by_stage = (_by_stage(report, kind, factor) for kind, factor in ((SECONDS, 1000), (MEMORY, 1), (LM_TOKENS, 1)))
    parts += [each for each in by_stage if each is not None]
    return section(
        "cost",
        "Cost",
        *parts,
        note="Means over the n questions of a configuration; what is 0 everywhere is left out. Times depend on the machine named at the end of the page.",
    )


MEMORY, LM_TOKENS = "peak_memory_mb", "lm_tokens"
_BY_STAGE = {
    SECONDS: "Milliseconds by stage",
    MEMORY: "Peak memory of the process by stage, MB",
    LM_TOKENS: "Tokens to and from language models by stage, before the answer",
}


def _by_stage(report: ChainReport, kind: str, factor: float) -> Safe | None:
    """A folded table of what is known of every stage."""
    names = list(dict.fromkeys(name for config in report.configs for name in config.cost if name.startswith(f"{kind}/")))
    if not names:
        return None
    rows: list[list[Cell | str]] = []
    for key, config in named(report):
        cells = [
            number(f"{factor * config.cost[name]:,.4g}", config.cost[name]) if name in config.cost else number("") for name in names
        ]
        rows.append([config_cell(key, config), *cells])
    titles = [name.removeprefix(f"{kind}/") for name in names]
    made = table(f"{_BY_STAGE[kind]} (means)", ["configuration", *titles], rows)
    return tag("details", tag("summary", _BY_STAGE[kind]), made)


def _cost_title(name: str) -> str:
    return "seconds, all stages" if name == SECONDS else name.replace("_", " ")


def types(report: ChainReport) -> Safe | None:
    """The default measure by type of question."""
    measure = default_measure(report)
    kinds = sorted({question.type for config in report.configs for question in config.questions})
    if not kinds:
        return None
    rows: list[list[Cell | str]] = []
    for kind in kinds:
        cells: list[Cell] = []
        count = 0
        for _, config in charted(report):
            values = _values_of_type(config, kind, measure)
            count = max(count, len(values))
            cells.append(_type_cell(values, report.seed))
        rows.append([Cell(kind), number(f"{count:,}", count), *cells])
    head = ["type", "n", *(key for key, _ in charted(report))]
    note = (
        f"{said(measure).capitalize()}, %, with 95 % intervals. Types with few questions have wide intervals: read them as hints."
    )
    return section("types", "By type of question", table(f"{said(measure)} by type of question", head, rows), note=note)


def _values_of_type(config: ConfigOutcome, kind: str, measure: str) -> list[float]:
    found = (value_of(question, measure) for question in config.questions if question.type == kind)
    return [value for value in found if value is not None]


def _type_cell(values: Sequence[float], seed: int) -> Cell:
    if not values:
        return number("")
    found = interval(values, seed=seed, num_resamples=_DRAWS)
    return number(
        share(Estimate(mean=found.mean, low=found.low, high=found.high, num_questions=len(values)), drawn=True), found.mean
    )


def questions(report: ChainReport) -> Safe:
    """The list of questions: the first ones here, all of them with a script, which also brings the filters and the close-up view."""
    ids = list(dict.fromkeys(question.id for config in report.configs for question in config.questions))
    by_config = [{question.id: question for question in config.questions} for _, config in charted(report)]
    any_config = {question.id: question for config in report.configs for question in config.questions}
    rows: list[list[Cell | str]] = []
    for name in ids[:MAX_LISTED]:
        outcomes, first = [outcomes.get(name) for outcomes in by_config], any_config[name]
        rows.append([Cell(first.id), cut(first.question, 200), first.type, *(_lost_word(outcome) for outcome in outcomes)])
    head = ["id", "question", "type", *(f"{key} lost at" for key, _ in charted(report))]
    listed = table("Questions and where each configuration lost them", head, rows, class_="list", sortable=False)
    more = (
        f"The first {MAX_LISTED} of {len(ids):,} questions; with a script running, this is a list of all with filters."
        if len(ids) > MAX_LISTED
        else None
    )
    static = tag("div", tag("p", more, class_="note") if more else None, listed, id="questions-static")
    note = "Choose a question to see what each stage saw, the evidence in its source, and the answer."
    return section("questions", "Question by question", tag("div", id="questions-live", hidden=True), static, note=note)


def _lost_word(outcome: QuestionOutcome | None) -> str:
    if outcome is None:
        return "not asked"
    if outcome.lost_at:
        return outcome.lost_at
    if unlocated_of(outcome) and not outcome.points:
        return "not located"
    return "\u2013" if outcome.points else "no points"


def bottom(report: ChainReport) -> Safe:
    """How the numbers came about."""
    facts = [("seed", str(report.seed)), *report.versions.items(), *report.machine.items()]
    rows: list[list[Cell | str]] = [[name, shown] for name, shown in facts]
    configs = [
        tag("details", tag("summary", tag("b", key, class_="key"), config.name), tag("pre", _yaml(config)))
        for key, config in named(report)
    ]
    return section(
        "made",
        "How this was made",
        table("Versions and machine", ["what", "value"], rows, sortable=False, class_="narrow"),
        tag("h3", "Configurations"),
        *configs,
    )


def _yaml(config: ConfigOutcome) -> str:
    import yaml

    return yaml.safe_dump(config.config, sort_keys=False, allow_unicode=True)

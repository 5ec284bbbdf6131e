"""The first sections of the report page: the result in words, stages, losses, length and cost. Knows the report; draws elsewhere.

Everything here can be read without a script. ``n`` stands beside every number that is a mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from rag.eval.chain_report import ChainReport, ConfigOutcome, Estimate
from rag.eval.html_charts import MAX_LINES, Line, Mark, lines, scatter
from rag.eval.html_shapes import Step, interval_glyph, waterfall
from rag.eval.html_text import Cell, Safe, join, number, table, tag
from rag.eval.report_values import RANK_MEASURES, SECONDS, default_measure, stages_of
from rag.eval.report_words import headline, key_of, num_with_points, pareto, percent, said, said_lost, standings


def section(anchor: str, title: str, *parts: str | None, note: str | None = None) -> Safe:
    """A part of the page with its heading; ``note`` says how to read it."""
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else None, *parts, id=anchor)


def named(report: ChainReport) -> list[tuple[str, ConfigOutcome]]:
    """The configurations with their keys (A, B, ...)."""
    return [(key_of(place), config) for place, config in enumerate(report.configs)]


def charted(report: ChainReport) -> list[tuple[str, ConfigOutcome]]:
    """Those that are drawn: all if a chart can hold them, else the baseline and the best."""
    if len(report.configs) <= MAX_LINES:
        return named(report)
    best = [standing.key for standing in standings(report, default_measure(report))]
    baseline = [key for key, config in named(report) if config.name == report.baseline]
    shown = set([*baseline, *(key for key in best if key not in baseline)][:MAX_LINES])
    return [(key, config) for key, config in named(report) if key in shown]


def _label(key: str, name: str) -> str:
    return f"{key}  {name}"


def top(report: ChainReport) -> Safe:
    """What was measured, the result in words, and what a reader must know."""
    sentences = headline(report)
    facts = f"{report.num_questions:,} questions, {report.num_documents:,} documents, {len(report.configs)} configurations, {report.created[:16].replace('T', ' ')}"
    remarks = tag("ul", *(tag("li", remark) for remark in report.remarks), class_="remarks") if report.remarks else None
    legend = tag(
        "ul",
        *(tag("li", tag("b", key, class_="key"), config.name, _role(report, config)) for key, config in named(report)),
        class_="legend",
    )
    return tag(
        "header", tag("p", "Full-chain evaluation", class_="kind"), tag("h1", report.name), tag("p", facts, class_="facts"),
        tag("p", sentences[0], class_="lead"), tag("p", " ".join(sentences[1:])) if sentences[1:] else None, legend, remarks,
    )  # fmt: skip


def _role(report: ChainReport, config: ConfigOutcome) -> Safe | None:
    return tag("span", "baseline", class_="role") if config.name == report.baseline else None


def stages(report: ChainReport) -> Safe:
    """A table of stages per configuration; those that are not charted are folded."""
    shown = {key for key, _ in charted(report)[:MAX_LINES]}
    parts = [_stage_details(key, config, is_open=key in shown) for key, config in named(report) if config.stages]
    note = (
        "Recall: the share of a question's information points that the stage still has, as a mean over questions. Accuracy: the share of questions with "
        "all their points. Both in per cent with 95 % bootstrap intervals. Coarse filter: only passages that name a topic of the question count. "
        "Lost: questions that were whole before this stage and are not after it."
    )
    return section("stages", "Stage by stage", *parts, note=note)


def _stage_details(key: str, config: ConfigOutcome, *, is_open: bool) -> Safe:
    head = ["stage", "n", "recall", "accuracy", "recall, coarse filter", "accuracy, coarse filter", "lost", "median ms"]
    rows: list[list[Cell | str]] = []
    for place, summary in enumerate(config.stages):
        four = (summary.recall, summary.accuracy, summary.recall_filtered, summary.accuracy_filtered)
        spent = summary.seconds_median
        rows.append(
            [
                Cell(summary.stage, float(place)),
                number(f"{summary.recall.num_questions:,}", summary.recall.num_questions),
                *(number(share(estimate, drawn=column < 2), estimate.mean) for column, estimate in enumerate(four)),
                number(tag("b", f"{summary.num_lost:,}") if summary.num_lost else "0", summary.num_lost),
                number(_milliseconds(spent), spent),
            ]
        )
    title = join([tag("b", key, class_="key"), config.name, tag("span", said_lost(config), class_="aside")])
    return tag("details", tag("summary", title), table(f"Stages of {config.name}", head, rows, class_="stages"), open=is_open)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:,.1f}" if seconds >= 5e-5 or not seconds else "< 0.1"


def share(estimate: Estimate, *, drawn: bool = False) -> Safe:
    """A share with its interval, in per cent, and as a small picture if it is to be ``drawn``; a dash if no question has one."""
    if not estimate.num_questions:
        return tag("span", "\u2013", class_="mean")
    glyph = interval_glyph(estimate.mean, estimate.low, estimate.high) if drawn else None
    failed = tag("span", f" {estimate.num_failed} failed", class_="interval") if estimate.num_failed else None
    spread = tag("span", f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}", class_="interval")
    return join([glyph, tag("span", f"{100 * estimate.mean:.1f}", class_="mean"), spread, failed])


def rankings(report: ChainReport) -> Safe | None:
    """What judged relevance says of every stage that ranks documents."""
    measured = {name for config in report.configs for stage in config.stages for name in stage.measures}
    names = [name for name in RANK_MEASURES if name in measured]
    if not names:
        return None
    rows: list[list[Cell | str]] = []
    for key, config in named(report):
        for summary in config.stages:
            if any(name in summary.measures for name in names):
                cells = [summary.measures.get(name) for name in names]
                counted = max(each.num_questions for each in cells if each is not None)
                shares = [number("") if each is None else number(share(each, drawn=True), each.mean) for each in cells]
                rows.append(
                    [
                        Cell(join([tag("b", key, class_="key"), config.name])),
                        summary.stage,
                        number(f"{counted:,}", counted),
                        *shares,
                    ]
                )
    note = "Documents in the order of their best chunks, against the judged relevance: means over questions in per cent with 95 % intervals."
    return section("rankings", "Rankings", table("Rankings", ["configuration", "stage", "n", *names], rows), note=note)


def losses(report: ChainReport) -> Safe:
    """A waterfall per configuration, all with the same rows; words where there is nothing to draw."""
    title = "Where questions are lost"
    if not any(num_with_points(config) for _, config in charted(report)):
        said_why = "No question has information points that stand in the documents, so no stage can be said to have lost one."
        return section("losses", title, note=said_why)
    lost_somewhere = [
        stage
        for stage in stages_of(report.configs)
        if any(summary.stage == stage and summary.num_lost for _, config in charted(report) for summary in config.stages)
    ]
    if not lost_somewhere:
        return section("losses", title, note=f"None of the configurations that are drawn lost a question.{_not_drawn(report)}")
    figures = []
    for key, config in charted(report):
        lost = {summary.stage: summary.num_lost for summary in config.stages}
        picture = waterfall(
            f"Losses of {config.name}", num_with_points(config), [Step(stage, lost.get(stage)) for stage in lost_somewhere]
        )
        heading = tag("figcaption", tag("b", key, class_="key"), config.name)
        figures.append(tag("figure", heading, picture))
    note = "Each question counts once, at the first stage that lost one of its information points. Stages that lose nothing in any configuration are left out."
    return section("losses", title, tag("div", *figures, class_="grid"), note=note + _not_drawn(report))


def _not_drawn(report: ChainReport) -> str:
    left = len(report.configs) - len(charted(report))
    return f" Drawn are the baseline and the best; {left} more configurations are in the tables." if left else ""


def budgets(report: ChainReport) -> Safe | None:
    """Recall of evidence tokens against returned tokens."""
    drawn = [(key, config) for key, config in charted(report) if config.recall_by_budget]
    if not drawn:
        return None
    curves = [
        Line(
            _label(key, config.name),
            [(float(budget), each.mean, each.low, each.high) for budget, each in sorted(config.recall_by_budget.items())],
        )
        for key, config in drawn
    ]
    counts = sorted({each.num_questions for _, config in drawn for each in config.recall_by_budget.values()})
    n = f"n = {counts[0]:,}" + (f" to {counts[-1]:,}" if counts[-1] > counts[0] else "")
    picture = lines("Recall against returned tokens", "returned tokens (log scale)", "token recall of the evidence, %", curves)
    note = f"Read upright: at the same number of tokens in the prompt, who has more of the evidence? Bands are 95 % intervals ({n} questions)."
    numbers = [
        _budget_table(report, "recall", {config.name: config.recall_by_budget for config in report.configs}),
        _budget_table(report, "precision", {config.name: config.precision_by_budget for config in report.configs}),
        _budget_table(report, "IoU", {config.name: config.iou_by_budget for config in report.configs}),
    ]
    return section(
        "budget",
        "Recall at equal length",
        tag("figure", picture),
        tag("details", tag("summary", "The numbers"), *numbers),
        note=note,
    )


def _budget_table(report: ChainReport, measure: str, found: Mapping[str, Mapping[int, Estimate]]) -> Safe:
    every = sorted({budget for budgets in found.values() for budget in budgets})
    rows = [
        [config_cell(key, config), *(number(percent(own[budget]), own[budget].mean) if budget in own else "" for budget in every)]
        for key, config in named(report)
        if (own := found[config.name])
    ]
    return table(
        f"Token {measure} at equal numbers of returned tokens, %", [f"{measure}, %", *(f"{budget:,}" for budget in every)], rows
    )


def config_cell(key: str, config: ConfigOutcome) -> Cell:
    """The key and the name of a configuration, as the first cell of a row."""
    return Cell(join([tag("b", key, class_="key"), config.name]))


def tradeoff(report: ChainReport) -> Safe | None:
    """Quality against seconds per question (or against prompt tokens, if no time is known)."""
    measure = default_measure(report)
    ranked = standings(report, measure)
    name = next((name for name in (SECONDS, "prompt_tokens") if any(name in each.cost for each in ranked)), None)
    known = [each for each in ranked if name in each.cost]
    if name is None or not known:
        return None
    front = set(pareto([(each.cost[name], each.mean) for each in known]))
    by_name = {config.name: config for config in report.configs}
    marks = []
    for place, each in enumerate(known):
        estimate = estimate_of(by_name[each.name], measure)
        low, high = (estimate.low, estimate.high) if estimate else (None, None)
        marks.append(Mark(_label(each.key, each.name), each.cost[name], each.mean, low, high, place in front))
    unit = "seconds per question, mean" if name == SECONDS else "prompt tokens per question, mean"
    picture = scatter(f"{said(measure)} against cost", unit, f"{said(measure)}, %", marks)
    rows = [
        [Cell(join([tag("b", each.key, class_="key"), each.name])), number(f"{100 * each.mean:.1f}", each.mean), number(f"{each.num_questions:,}", each.num_questions),
         number(f"{each.cost[name]:,.3g}", each.cost[name]), "yes" if place in front else "no"]
        for place, each in enumerate(known)
    ]  # fmt: skip
    note = "Full marks and the broken line: nothing is both as good and cheaper. Whiskers are 95 % intervals; the quality axis does not start at zero. Intervals that overlap do not mean that two are equal: see the comparisons."
    numbers = table("Quality and cost", ["configuration", f"{said(measure)}, %", "n", unit, "on the front"], rows)
    return section(
        "tradeoff",
        "Quality against cost",
        tag("figure", picture),
        tag("details", tag("summary", "The numbers"), *numbers),
        note=note,
    )


def estimate_of(config: ConfigOutcome, measure: str) -> Estimate | None:
    """The estimate that the report holds of a measure, if it holds one."""
    kind, _, stage = measure.partition("@")
    for summary in config.stages:
        if summary.stage == stage and kind in ("recall", "accuracy", "recall_filtered", "accuracy_filtered"):
            found: Estimate = getattr(summary, kind)
            return found
    return config.answers.get(measure)

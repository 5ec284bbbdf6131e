"""A full-chain report as tables for a terminal. Knows rich, which it loads only to make a table; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.eval.chain_report import ChainReport, ConfigOutcome, Estimate
from rag.eval.report_values import RANK_MEASURES, SECONDS, default_measure, total_cost
from rag.eval.report_words import is_share, key_of, pareto, percent, said, said_lost, signed, standings, verdict

if TYPE_CHECKING:
    from rich.table import Table


def tables(report: ChainReport) -> list[Table]:
    """Stages per configuration, then rankings, answers, comparisons and quality against cost, those that there is something to say in."""
    made = [_stages(key_of(place), config) for place, config in enumerate(report.configs) if config.stages]
    made += [table for table in (_rankings(report), _answers(report), _comparisons(report), _cost(report)) if table is not None]
    return made


def _table(title: str, head: Sequence[str], num_words: int = 1) -> Table:
    """The first ``num_words`` columns hold words, the others numbers."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE)
    for place, name in enumerate(head):
        table.add_column(escape(name), justify="left" if place < num_words else "right")
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.markup import escape

    table.add_row(*(escape(cell) for cell in cells))


def _stages(key: str, config: ConfigOutcome) -> Table:
    title = f"{key}  {config.name}: {said_lost(config)}"
    table = _table(
        title, ["stage", "n", "recall %", "accuracy %", "recall %, coarse filter", "accuracy %, coarse filter", "lost", "median ms"]
    )
    for each in config.stages:
        spent = "" if each.seconds_median is None else f"{1000 * each.seconds_median:,.1f}"
        shares = [percent(share) for share in (each.recall, each.accuracy, each.recall_filtered, each.accuracy_filtered)]
        _add(table, each.stage, f"{each.recall.num_questions:,}", *shares, f"{each.num_lost:,}", spent)
    return table


def _rankings(report: ChainReport) -> Table | None:
    measured = {name for config in report.configs for stage in config.stages for name in stage.measures}
    names = [name for name in RANK_MEASURES if name in measured]
    if not names:
        return None
    table = _table(
        "Rankings (documents, against judged relevance)", ["configuration", "stage", "n", *(f"{name} %" for name in names)], 2
    )
    for place, config in enumerate(report.configs):
        for stage in config.stages:
            found = [stage.measures.get(name) for name in names]
            known = [each for each in found if each is not None]
            if known:
                counted = f"{max(each.num_questions for each in known):,}"
                _add(
                    table,
                    f"{key_of(place)}  {config.name}",
                    stage.stage,
                    counted,
                    *("" if each is None else percent(each) for each in found),
                )
    return table


def _answers(report: ChainReport) -> Table | None:
    names = list(dict.fromkeys(name for config in report.configs for name in config.answers))
    if not names:
        return None
    table = _table(
        "Answers (mean, 95 % interval, n)", ["configuration", *(said(name) + (" %" if is_share(name) else "") for name in names)]
    )
    for place, config in enumerate(report.configs):
        _add(table, f"{key_of(place)}  {config.name}", *(_answer(name, config.answers.get(name)) for name in names))
    return table


def _answer(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    shown = percent(estimate) if is_share(name) else f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
    failed = f", {estimate.num_failed} failed" if estimate.num_failed else ""
    return f"{shown}, n = {estimate.num_questions:,}{failed}"


def _comparisons(report: ChainReport) -> Table | None:
    if not report.comparisons:
        return None
    keys = {config.name: key_of(place) for place, config in enumerate(report.configs)}
    table = _table(
        "Against the baseline (paired)",
        ["configuration", "against", "measure", "in words", "difference", "95 % interval", "n", "p", "p, adjusted"],
        4,
    )
    for each in report.comparisons:
        spread = f"{signed(each.measure, each.low)} to {signed(each.measure, each.high)}"
        _add(
            table, f"{keys.get(each.config, '')}  {each.config}", keys.get(each.baseline, each.baseline), said(each.measure), verdict(each),
            signed(each.measure, each.mean), spread, f"{each.num_questions:,}", f"{each.p:.4f}", f"{each.p_adjusted:.4f}",
        )  # fmt: skip
    return table


def _cost(report: ChainReport) -> Table | None:
    measure = default_measure(report)
    ranked = standings(report, measure)
    names = list(dict.fromkeys(name for config in report.configs for name, spent in total_cost(config).items() if spent))
    if not names or not ranked:
        return None
    known = [each for each in ranked if SECONDS in each.cost]
    front = {known[place].key for place in pareto([(each.cost[SECONDS], each.mean) for each in known])}
    table = _table(
        f"{said(measure).capitalize()} against cost (means per question)",
        ["configuration", f"{said(measure)} %", "n", *names, "on the front"],
    )
    for each in ranked:
        spent = [f"{each.cost[name]:,.4g}" if name in each.cost else "" for name in names]
        _add(
            table,
            f"{each.key}  {each.name}",
            f"{100 * each.mean:.1f}",
            f"{each.num_questions:,}",
            *spent,
            "yes" if each.key in front else "no",
        )
    return table

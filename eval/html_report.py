"""A full-chain report as one HTML page that needs no network. Knows which sections there are and in which order; each is made elsewhere.

The page asks the browser to run only the script and the style sheet that were written into it here (a content security policy with
their hashes), so nothing that a document or an answer holds can run, even if an escape were missing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rag.eval import html_sections as sections
from rag.eval import html_tables as more
from rag.eval.chain_report import ChainReport
from rag.eval.html_questions import question_data
from rag.eval.html_text import Safe, join, json_for_script, tag

_LINKS = (
    ("stages", "Stages"), ("losses", "Losses"), ("rankings", "Rankings"), ("budget", "Length"), ("tradeoff", "Cost and quality"), ("answers", "Answers"),
    ("comparisons", "Comparisons"), ("cost", "Cost"), ("types", "Types"), ("questions", "Questions"), ("made", "How made"),
)  # fmt: skip


def write_html(report: ChainReport, path: Path, extra: Sequence[tuple[str, str, Safe]] = ()) -> None:
    """Writes the page to ``path``. ``extra``: more sections (anchor, name in the list of contents, HTML) to stand before the others.

    Raises ``ValueError`` for a report without a configuration and ``FileNotFoundError`` for a missing folder.
    """
    page = render(report, extra)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder for the page")
    path.write_text(page, encoding="utf-8", newline="\n")


def render(report: ChainReport, extra: Sequence[tuple[str, str, Safe]] = ()) -> str:
    """The page as text."""
    if not report.configs:
        raise ValueError(f"the report {report.name!r} has no configuration to show")
    data, cuts = question_data(report)
    shown = {key for key, _ in sections.charted(report)}
    data["shown"] = [number for number, config in enumerate(data["configs"]) if config["key"] in shown]
    said = report.model_copy(update={"remarks": [*report.remarks, *cuts]})
    made = {
        "stages": sections.stages(said), "losses": sections.losses(said), "rankings": sections.rankings(said), "budget": sections.budgets(said), "tradeoff": sections.tradeoff(said),
        "answers": more.answers(said), "comparisons": more.comparisons(said), "cost": more.costs(said), "types": more.types(said),
        "questions": more.questions(said), "made": more.bottom(said),
    }  # fmt: skip
    links = [(anchor, word) for anchor, word, _ in extra] + [(anchor, word) for anchor, word in _LINKS if made[anchor] is not None]
    body = tag(
        "body", tag("a", "To the questions", href="#questions", class_="skip"), sections.top(said),
        tag("nav", *(tag("a", word, href=f"#{anchor}") for anchor, word in links), aria_label="Contents"),
        tag("main", *(section for _, _, section in extra), *made.values()),
        tag("dialog", id="close-up", aria_labelledby="close-up-title"),
        tag("script", json_for_script(data), type="application/json", id="data"), tag("script", _part("report.js")),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', _head(said), body, lang='en')}\n"


def _head(report: ChainReport) -> Safe:
    style, script = _part("report.css"), _part("report.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    return tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"), tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content="Ragstone"), tag("title", join([report.name, ": full-chain evaluation"])), tag("style", style),
    )  # fmt: skip


def _part(name: str) -> Safe:
    """A file of ours that goes into the page as it is."""
    return Safe(files("rag.eval").joinpath("page", name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"

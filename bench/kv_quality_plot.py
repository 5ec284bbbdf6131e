"""Draws docs/kv_quality.png from bench/results/kv_quality_reader.json and kv_quality_reader-middle.json. Knows files, runs nothing.

python bench/kv_quality_plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

ROOT = Path(__file__).parents[1]
TITLES = {"reader": "the pronoun begins its chunk", "reader-middle": "the pronoun stands in the middle"}
SHARE = 0.15


def main() -> None:
    """Exact match with intervals at one share, a panel per task."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TITLES), figsize=(9, 3), sharex=True, layout="constrained")
    for panel, (name, title) in zip(panels, TITLES.items(), strict=True):
        result = json.loads((ROOT / "bench" / "results" / f"kv_quality_{name}.json").read_text())
        rows = [row for row in result["table"] if row["recompute"] in (0.0, SHARE, 1.0)][::-1]
        for height, row in enumerate(rows):
            found = row["exact_match"]
            panel.plot([found["low"], found["high"]], [height, height], color="0.6", linewidth=2)
            panel.plot(found["mean"], height, "o", color="black" if row["method"] in ("combined", "full") else "0.4")
        panel.set_yticks(range(len(rows)), [row["method"] for row in rows])
        panel.set_title(f"{title}, {result['num_questions']} questions", fontsize=9)
        panel.set_xlabel(f"exact match, {SHARE:.0%} computed anew (95 % interval)", fontsize=8)
        panel.set_xlim(0.5, 1.0)
        panel.grid(axis="x", color="0.9")
    figure.savefig(ROOT / "docs" / "kv_quality.png", dpi=110)


if __name__ == "__main__":
    main()

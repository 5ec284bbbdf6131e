"""Draws docs/ttft.png from bench/results/ttft_growth_float32.json and ttft_growth_bfloat16.json. Knows files, runs nothing.

python bench/ttft_plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

ROOT = Path(__file__).parents[1]
LINES = {
    "full hot": ("everything computed", "black", "-"),
    "combined hot": ("combined, 15 %", "tab:blue", "-"),
    "block hot": ("block", "tab:green", "-"),
}


def main() -> None:
    """Seconds to the first token over tokens of the prompt, both axes logarithmic, a panel per type."""
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), sharex=True, sharey=True, layout="constrained")
    for panel, dtype in zip(panels, ("float32", "bfloat16"), strict=True):
        result = json.loads((ROOT / "bench" / "results" / f"ttft_growth_{dtype}.json").read_text())
        lengths = [int(length) for length in result["seconds"]]
        for name, (label, colour, style) in LINES.items():
            seconds = [row[name] for row in result["seconds"].values()]
            panel.loglog(lengths, seconds, style, color=colour, marker="o", markersize=3, label=label)
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.set_title(f"{dtype}, {result['threads']} threads", fontsize=9)
        panel.set_xlabel("tokens of the prompt, chunks of 512 cached in memory", fontsize=8)
        panel.grid(color="0.9")
    panels[0].set_ylabel("seconds to the first token", fontsize=8)
    panels[0].legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "ttft.png", dpi=110)


if __name__ == "__main__":
    main()

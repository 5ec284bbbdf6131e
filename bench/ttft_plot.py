"""Draws docs/ttft.png from bench/results/ttft_growth_bfloat16.json. Knows a file, runs nothing.

python bench/ttft_plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

ROOT = Path(__file__).parents[1]
LINES = {
    "full hot": ("everything computed", "black"),
    "combined hot": ("combined, 15 %", "tab:blue"),
    "block hot": ("block", "tab:green"),
}


def main() -> None:
    """Seconds to the first token over tokens of the prompt, both axes logarithmic."""
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    result = json.loads((ROOT / "bench" / "results" / "ttft_growth_bfloat16.json").read_text())
    lengths = [int(length) for length in result["seconds"]]
    figure, panel = pyplot.subplots(figsize=(5.5, 3.4), layout="constrained")
    for name, (label, colour) in LINES.items():
        seconds = [row[name] for row in result["seconds"].values()]
        panel.loglog(lengths, seconds, color=colour, marker="o", markersize=3, label=label)
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.set_title(f"{result['dtype']}, {result['threads']} threads, chunks of 512 tokens cached in memory", fontsize=9)
    panel.set_xlabel("tokens of the prompt", fontsize=8)
    panel.set_ylabel("seconds to the first token", fontsize=8)
    panel.grid(color="0.9")
    panel.legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "ttft.png", dpi=110)


if __name__ == "__main__":
    main()

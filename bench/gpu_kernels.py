"""The Triton kernels on a GPU: right first, then how fast, beside others and beside what the device could do at best.

    python bench/gpu_kernels.py                       # on a GPU; `make bench-gpu` runs this
    python bench/gpu_kernels.py --device cpu --small  # the same script without one, to see that it runs; writes nothing
    python bench/gpu_kernels.py --list                # the cases and their anchors

Every case is first compared with its reference in float64, on numbers drawn from a new seed, and is not timed if it is wrong. Times are medians of
CUDA events over rounds in which ours and the anchors take turns, behind a flush of the device's cache; where a launch can be recorded as a graph, its
replay is timed too, which leaves out what launching costs the processor. The floor is what the device would need at best: bytes over the rate of a
large copy or operations over the rate of a large product in bfloat16, both measured in the same run; ``of_ceiling`` is the share of it that is reached.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.gpu_anchors import wheels
from bench.gpu_attention import attention_cases, batch_cases, prompt_cases, text_cases
from bench.gpu_storage import compressed_cases, search_cases, storage_cases
from bench.gpu_timing import Bench, Case, figures
from bench.record import write_result
from rag.kernels.choose import choose


def cases(bench: Bench, small: bool) -> Iterator[Case]:
    """All of them, one at a time: their tensors do not fit together."""
    for made in (attention_cases, batch_cases, text_cases, prompt_cases, storage_cases, search_cases, compressed_cases):
        yield from made(bench, small)


def main() -> int:
    """Prints a line a case and writes bench/results/gpu_kernels.json after each. Exit code 1 if a kernel is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="shapes that a processor can do")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of the numbers; a new one each time")
    parser.add_argument("--only", default="", help="cases whose name has these words")
    parser.add_argument("--list", action="store_true", help="names the cases and their anchors, in small shapes, and ends")
    options = parser.parse_args()
    if options.list:
        options.device, options.small = "cpu", True
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured (the kernels' correctness without one: pytest tests/kernels)")
        return 0
    torch.manual_seed(options.seed)
    bench = Bench(options.device, options.rounds)
    if options.list:
        for case in cases(bench, small=True):
            print(f"{case.name}: {', '.join(case.anchors)}")
        return 0
    chosen = choose(torch.empty(0, dtype=torch.bfloat16, device=options.device))
    with torch.inference_mode():
        copies, products = bench.ceilings(options.small)
        print(
            f"{chosen.name} ({chosen.why}); copies {copies / 1e9:.0f} GB/s, products {products / 1e12:.1f} TFLOP/s, seed {options.seed}"
        )
        told: dict[str, Any] = {"rounds": options.rounds, "seed": options.seed, "wheels": wheels(), "cases": {}}
        told["ceilings"] = {"copy_bytes_per_second": copies, "bfloat16_flop_per_second": products}
        for case in cases(bench, options.small):
            if options.only not in case.name:
                continue
            told["cases"][case.name] = figures(bench, case, (copies, products))
            print(f"{case.name}: {json.dumps(told['cases'][case.name])}", flush=True)
            if options.device == "cuda":  # after every case: a lease that ends keeps what it has
                write_result("gpu_kernels", {"device": torch.cuda.get_device_name(), **told}, ["triton"])
    wrong = [name for name, found in told["cases"].items() if not found["right"]]
    for name in wrong:
        print(f"wrong: {name}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compiles the Triton kernels for a GPU that is not there, through their launchers, and reports what each needs. Run by ``test_triton``.

    python tests/kernels/compile_check.py 90            # sm_90: prints one JSON line a kernel
    python tests/kernels/compile_check.py record        # both architectures, everything; into kernels/compile_report.json, under triton's version

A stub driver answers for the GPU and every launch only compiles, with the arguments' true specialisation, so tensors may be in memory.
"""

# mypy: disable-error-code="import-untyped, no-untyped-def"
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "kernels" / "compile_report.json"
SHARED_LIMIT = {80: 166_912, 90: 232_448}
ARCHITECTURES = (80, 90)


def launches(quick: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is compiled, by name; ``quick``: the smaller part that every test run compiles."""
    import torch

    from rag.kernels.assemble import LayerKV, assemble_layers
    from rag.kernels.cascade_decode import cascade_decode
    from rag.kernels.column_mass import column_mass
    from rag.kernels.deviation import kv_deviation
    from rag.kernels.ingest_prefill import ingest_prefill, room_for
    from rag.kernels.maxsim import maxsim, maxsim_rows
    from rag.kernels.merge_states import merge_states
    from rag.kernels.quantise import layer_of, quantise_kv
    from rag.kernels.selective_attention import selective_attention
    from rag.kernels.selective_batch import selective_attention_batch
    from rag.kernels.token_logprob import token_logprob
    from rag.kernels.varlen_attention import varlen_attention
    from rag.kernels.warp_score import (
        CentroidScores,
        centroid_scores,
        document_scores,
        interaction,
        lanes_of,
        top_rows,
    )
    from rag.kernels.warp_score_codes import Coded, row_bytes

    def bf16(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16)

    def attend(dim: int, rows: int, **more: Any) -> None:
        positions = torch.arange(rows) + 8192 - rows
        kv = bf16(8, 8192, dim)
        selective_attention(bf16(32, rows, dim), kv, kv, positions, num_keys=8192, scale=0.1, **more)

    def mass(dim: int) -> None:
        column_mass(bf16(32, 64, dim), bf16(8, 8192, dim), torch.arange(64) + 8128, num_keys=8192, scale=0.1)

    def attend_texts(dim: int, **more: Any) -> None:
        q, k, v = bf16(4096, 3, 12, dim).permute(1, 2, 0, 3)
        varlen_attention(q, k, v, torch.arange(0, 4097, 256, dtype=torch.int32), longest=256, scale=0.1, **more)

    def decode(dim: int, own: int) -> None:
        common, kept = bf16(8, 4096, dim), [bf16(8, own + 16, dim) for _ in range(4)]
        cascade_decode(bf16(4, 32, dim), common, common, kept, kept, [own] * 4, scale=0.1)

    def attend_requests(dim: int, rows: int, **more: Any) -> None:
        kept, number = bf16(8, 1040, dim), 4096 // rows if rows > 1 else 64
        starts, positions = list(range(0, number * rows + 1, rows)), torch.arange(1024 - rows, 1024).repeat(number)
        counts = [1024] * number
        selective_attention_batch(
            bf16(32, number * rows, dim), starts, [kept] * number, [kept] * number, positions, num_keys=counts, scale=0.1, **more
        )

    def ingest(dim: int, kind: Any, style: Any = "half", **more: Any) -> None:
        kv, turns = bf16(8, 1024, dim), torch.empty(1024, dim // 2)
        into = room_for(8, 2, 1024, dim, dim, kind, torch.bfloat16)
        before = (bf16(8, 64, dim), bf16(8, 64, dim))
        ingest_prefill(bf16(32, 1024, dim), kv, kv, [0, 512, 1024], turns, turns, style, into, before=before, scale=0.1, **more)

    def merge(dim: int) -> None:
        merge_states(bf16(2, 64, 32, dim), torch.empty(2, 32, 64))

    def assemble(kind: Any, style: Any) -> None:
        stored, packed = {"plain": (torch.bfloat16, 1), "int8": (torch.int8, 1), "int4": (torch.uint8, 2)}[kind]
        codes = torch.empty(2, 8, 512, 128 // packed, dtype=stored)
        held = LayerKV(codes, codes)
        if kind in ("int8", "int4"):
            held = LayerKV(codes, codes, torch.empty(2, 8, 128), torch.empty(2, 8, 512), kind)
        turns = torch.empty(1024, 64)
        pieces = [[layer_of(held, 0), layer_of(held, 1)]]
        assemble_layers(pieces, [0], turns, turns, style, bf16(2, 8, 1024, 128), bf16(2, 8, 1024, 128))

    def quantise(kind: Any) -> None:
        quantise_kv(bf16(2, 8, 512, 128), bf16(2, 8, 512, 128), kind)

    def interact(dim: int, stored: torch.dtype, score: Callable[..., Any] = maxsim) -> None:
        scales = torch.empty(4096) if stored == torch.int8 else None
        borders = torch.arange(0, 4097, 128)
        score(bf16(64, dim), torch.tensor([0, 32, 64]), torch.empty(4096, dim, dtype=stored), borders, scales)

    def logprobs(rows: int) -> None:
        token_logprob(bf16(rows, 2048), bf16(32_000, 2048), torch.zeros(rows, dtype=torch.int64))

    def deviate() -> None:
        kv = bf16(8, 8192, 128)
        kv_deviation(kv, kv, kv, kv, "k")

    def score_centroids() -> None:
        centroid_scores(lanes_of(torch.ones(32, 128)), torch.zeros(16_384, 128, dtype=torch.uint8), torch.empty(16_384))

    def interact_centroids() -> None:
        runs = torch.zeros(4096, dtype=torch.uint16)
        interaction(torch.zeros(16_384, 32, dtype=torch.uint8), runs, torch.arange(0, 4097, 64), torch.ones(64, dtype=torch.bool))

    def score_codes(bits: int) -> None:
        starts, runs, one = torch.arange(0, 4097, 128), torch.zeros(4096, dtype=torch.uint16), torch.ones(4096, dtype=torch.uint8)
        codes = torch.zeros(4096, row_bytes(128, bits), dtype=torch.uint8)
        coded = Coded(starts, starts, runs, one, codes, one, 0.1, bits, 128, runs)
        centroids = CentroidScores(torch.empty(16_384, 32), torch.empty(0), torch.empty(0))
        document_scores(lanes_of(torch.ones(32, 128)), centroids, coded, torch.arange(32))

    def best_rows() -> None:
        top_rows(torch.zeros(2048, dtype=torch.int32), 100, 255)

    for dim in (128,) if quick else (64, 80, 128, 256):
        yield f"attention {dim} many", partial(attend, dim, 1024)
        yield f"attention {dim} decoding", partial(attend, dim, 1)
        yield f"column mass {dim}", partial(mass, dim)
        yield f"cascade {dim}", partial(decode, dim, 128)
        yield f"batch {dim} many", partial(attend_requests, dim, 512)
        yield f"batch {dim} few", partial(attend_requests, dim, 1)
        yield f"ingest {dim} int8", partial(ingest, dim, "int8")
        yield f"merge {dim}", partial(merge, dim)
        if not quick:
            yield f"cascade {dim} split", partial(decode, dim, 4096)
            yield f"attention {dim} window", partial(attend, dim, 1024, window=512)
    for dim in (64,) if quick else (32, 64, 128, 256):
        yield f"varlen attention {dim} many", partial(attend_texts, dim)
        if not quick:
            yield f"varlen attention {dim} many window", partial(attend_texts, dim, window=65)
            yield f"varlen attention {dim} many causal", partial(attend_texts, dim, causal=True)
    if not quick:
        yield "ingest 128 plain interleaved", partial(ingest, 128, "plain", "interleaved")
        yield "ingest 128 int4 window", partial(ingest, 128, "int4", window=256)
        yield "attention 256 softcap", partial(attend, 256, 1024, softcap=50.0)
    for kind in ("int4",) if quick else ("plain", "int8", "int4"):
        yield f"assembly {kind} half", partial(assemble, kind, "half")
        yield f"assembly {kind} interleaved", partial(assemble, kind, "interleaved")
    for kind in ("int4",) if quick else ("int8", "int4"):
        yield f"codes {kind}", partial(quantise, kind)
    if not quick:
        yield "batch 128 many window", partial(attend_requests, 128, 512, window=256)
    yield "deviation", deviate
    for dim in (128,) if quick else (128, 384, 1024):
        for stored, word in ((torch.int8, "codes"),) if quick else ((torch.bfloat16, "plain"), (torch.int8, "codes")):
            yield f"maxsim {dim} {word}", partial(interact, dim, stored)
            yield f"maxsim rows {dim} {word}", partial(interact, dim, stored, maxsim_rows)
    for rows in (64,) if quick else (64, 1):
        yield f"token logprob {'few' if rows == 1 else 'many'}", partial(logprobs, rows)
    yield "centroid scores", score_centroids
    yield "interaction", interact_centroids
    for bits in (5,) if quick else (2, 4, 5, 8):
        yield f"codes of {bits} bits", partial(score_codes, bits)
    yield "best rows", best_rows


def compile_all(arch: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One row a compiled kernel."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class StubDriver:
        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: Any = None) -> int:
            return 0

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", arch, 32)

        def get_active_torch_device(self) -> Any:
            return torch.device("cpu")

    compiled: list[tuple[str, Any]] = []
    run = JITFunction.run

    def only_compile(self, *arguments, grid, warmup, **named):
        kernel = run(self, *arguments, grid=grid, warmup=True, **named)
        compiled.append((self.__name__, kernel))
        return kernel

    jit: Any = JITFunction
    jit.run = only_compile
    driver.set_active(StubDriver())
    from rag.kernels import tiles

    tiles.architecture = lambda device: arch
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for title, launch in launches(quick):
        compiled.clear()
        launch()
        for number, (name, kernel) in enumerate({id(k): (n, k) for n, k in compiled}.values()):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "kernel.cubin"
                file.write_bytes(kernel.asm["cubin"])
                usage = subprocess.run([tools / "cuobjdump", "-res-usage", file], capture_output=True, text=True, check=True).stdout
                code = subprocess.run([tools / "nvdisasm", "-c", file], capture_output=True, text=True, check=True).stdout
            registers = re.search(r"REG:(\d+)", usage)
            assert registers is not None
            yield {
                "kernel": f"sm_{arch} {title} {name}" + (f" {number}" if number else ""),
                "registers": int(registers[1]),
                "shared_bytes": int(kernel.metadata.shared),
                "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
                "wide_loads": len(re.findall(r"\b(?:LDG\.E\.128|LDGSTS\.E\.BYPASS\.128|LDGSTS\.E\.128|LDG\.E\.\S*128)", code)),
                "matrix": "wgmma" if "wgmma" in kernel.asm["ptx"] else "mma" if "mma.sync" in kernel.asm["ptx"] else "",
            }


def main() -> None:
    """See the module."""
    if sys.argv[1] == "record":
        rows = []
        for arch in ARCHITECTURES:
            done = subprocess.run([sys.executable, __file__, str(arch)], capture_output=True, text=True, check=True)
            rows += [json.loads(line) for line in done.stdout.splitlines()]
        from importlib.metadata import version

        report = json.loads(REPORT.read_text(encoding="utf-8")) | {version("triton"): rows}
        lists = (
            f'  "{name}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in report[name]) + "\n  ]" for name in sorted(report)
        )
        REPORT.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")
        return
    sys.path.insert(0, str(ROOT))
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["RAG_KERNELS"] = "triton"
    for row in compile_all(int(sys.argv[1]), "quick" in sys.argv):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

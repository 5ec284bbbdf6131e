"""Faults planted into kernels, one at a time: the check of each kernel must see its own. Knows source text; run by ``interpreted`` and by tests of compiled loops."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

SHRUNK = {"PROGRAMS", "LEAST_KEYS"}
"""Constants that checks make small, so that small problems are split as large ones are."""


class Planted(NamedTuple):
    """``right`` in the source of a module becomes ``wrong``; ``case`` is the name of the check that must fail."""

    module: str
    right: str
    wrong: str
    case: str


PLANTED = [
    Planted("attention_triton", "(pos[:, None] >= (j + n)[None, :])\n        if WINDOW", "(pos[:, None] > (j + n)[None, :])\n        if WINDOW", "attention plain"),
    Planted("attention_triton", "(j + n)[None, :] > pos[:, None] - window)\n        x", "(j + n)[None, :] >= pos[:, None] - window)\n        x", "attention dim-128"),
    Planted("attention_triton", "fade = tl.exp2(m - shift)", "fade = tl.exp2(m * 0)", "attention group-8"),
    Planted("attention_triton", "ok[:, None] & real[None, :] & (pos[:, None] >=", "ok[:, None] & real[None, :] & (pos[:, None] >", "attention plain"),
    Planted("varlen_attention_triton", "column[None, :] <= row[:, None]", "column[None, :] < row[:, None]", "varlen attention causal"),
    Planted("varlen_attention_triton", "column[None, :] < row[:, None] + window", "column[None, :] <= row[:, None] + window", "varlen attention window"),
    Planted("cascade_triton", "range(num_common_parts)", "range(num_common_parts - 1)", "cascade plain"),
    Planted("selective_batch_triton", "tl.minimum(earliest + 1, high)", "tl.minimum(earliest + 2 + BN, high)", "batch plain"),
    Planted("selective_batch_triton", "(token < end) & (r % GP < G)", "(r % GP < G)", "batch plain"),
    Planted("merge_triton", "whole * fade + share", "whole + share", "merge (3, 37, 3, 24, torch.float32)"),
    Planted("ingest_triton", "real[None, :] & (pos[:, None] >= key[None, :])", "real[None, :] & (pos[:, None] > key[None, :])", "ingest plain"),
    Planted("ingest_triton", "(y * c + x * s)", "(y * c - x * s)", "ingest plain"),
    Planted("assemble_triton", "(b * c + a * s)", "(b * c - a * s)", "assembly plain half 16 torch.float32"),
    Planted("assemble_triton", "(x + 12582912.0) - 12582912.0", "x", "codes int8 45 torch.float32"),
    Planted("assemble_triton", "acc += (x - y) * (x - y)", "acc += x * x - y * y", "deviation kv"),
    Planted("maxsim_triton", "held = (token + column) < last", "held = (token + column) <= last", "maxsim 96 torch.bfloat16"),
    Planted("maxsim_triton", "(token - first).to(tl.int32) + place", "place", "maxsim 96 torch.bfloat16"),
    Planted("token_logprob_triton", "total * tl.exp(most - higher)", "total", "token logprob (70, 129, 64, torch.bfloat16, False)"),
    Planted("warp_score_triton", "offset -= ", "offset += ", "warp score 4 128 32"),
    Planted("warp_score_triton", "total = tl.sum(best, 0)", "total = tl.max(best, 0)", "warp score 4 128 32"),
]  # fmt: skip


def must_be_seen(planted: Planted, check: Callable[[], None], users: Sequence[str] = ()) -> None:
    """Runs ``check`` over the faulty module, ``users`` being loaded anew as they hold parts of it. Raises ``RuntimeError`` if it passes, or if there is nothing of the kind in the source."""
    name = f"rag.kernels.{planted.module}"
    source = Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8")
    if planted.right not in source:
        raise RuntimeError(f"{planted.module} has no {planted.right!r} to make wrong")
    package = importlib.import_module("rag.kernels")
    right = {stem: importlib.import_module(f"rag.kernels.{stem}") for stem in (planted.module, *users)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for stem, module in right.items():
                text = Path(str(module.__file__)).read_text(encoding="utf-8")
                faulty = _loaded(stem, text.replace(planted.right, planted.wrong) if stem == planted.module else text, folder)
                for constant in SHRUNK & vars(module).keys():
                    setattr(faulty, constant, getattr(module, constant))
            check()
        except Exception:  # noqa: BLE001 - seen, in whatever way
            return
        finally:
            for stem, module in right.items():
                sys.modules[f"rag.kernels.{stem}"] = module
                setattr(package, stem, module)
    raise RuntimeError(f"{planted.wrong!r} in the place of {planted.right!r} in {planted.module} was not seen")


def _loaded(stem: str, source: str, folder: str) -> ModuleType:
    """A module of that source in the place of the one of that name."""
    name, file = f"rag.kernels.{stem}", Path(folder) / f"{stem}.py"
    file.write_text(source, encoding="utf-8")  # the interpreter reads the source of what it runs
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    setattr(importlib.import_module("rag.kernels"), stem, module)
    spec.loader.exec_module(module)
    return module

"""Every public kernel in a process in which triton cannot be found; prints what chose the implementation for a GPU. Run by ``test_without_triton``."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


class Without(PathFinder):
    """Finds everything but triton, as if it were not installed."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] == "triton" else super().find_spec(fullname, path, target)


def main() -> None:
    """Imports what has no Triton kernel in it, runs the kernels, says what a GPU would get."""
    sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
    import torch

    from rag.kernels import choose
    from rag.kernels.cascade_decode import cascade_decode
    from rag.kernels.column_mass import column_mass
    from rag.kernels.ingest_prefill import ingest_prefill
    from rag.kernels.merge_states import merge_states
    from rag.kernels.quantise import quantise_kv
    from rag.kernels.selective_attention import selective_attention
    from rag.kernels.selective_batch import selective_attention_batch
    from tests.kernels.cases import BATCH, CASCADE, INGEST, Attention, batch, chunks, problem, requests, states

    folder = Path(choose.__file__).parent
    for file in sorted(folder.glob("*.py")):
        if file.stem != "conftest" and not file.stem.endswith("_triton"):
            importlib.import_module(f"rag.kernels.{file.stem}")
    made, more = chunks(INGEST[0])
    several, options = batch(BATCH[0])
    queries, keys, values, positions, _ = problem(Attention("plain"))
    found = [
        ingest_prefill(*made, **more),
        cascade_decode(*requests(CASCADE[0])[0], scale=0.3),
        merge_states(*states(2, 3, 2, 8, torch.float32))[0],
        selective_attention(queries, keys, values, positions, num_keys=45, scale=0.3),
        selective_attention_batch(*several, **options)[0],
        column_mass(queries, keys, positions, num_keys=45, scale=0.3),
        quantise_kv(values[None, :, :45], values[None, :, :45], "int4").key_scales,
    ]
    assert all(one is not None and bool(one.isfinite().all()) for one in found)
    assert not [name for name in sys.modules if name.partition(".")[0] == "triton"], "triton was imported"
    print(choose.gpu_choice())


if __name__ == "__main__":
    main()

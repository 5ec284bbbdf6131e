"""Sizes of tiles of the Triton kernels, by kernel, architecture, head dimension and shape of the problem. Knows numbers; no kernel, no triton.

Nothing is tuned at run time: a row that is missing is an error here and not a pause in somebody's request. Every row compiles for its architecture
without spills (``compile_report.json``); no row has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

Kernel = Literal["attention", "batch", "scores", "ingest", "maxsim", "logprob"]
Shape = Literal["many", "few", "plain", "codes", "any"]


class Tile(NamedTuple):
    """Rows and columns of the scores that a program holds, its warps, stages of its pipeline; ``depth``: dimensions at a time (0: all)."""

    rows: int
    keys: int
    warps: int
    stages: int
    depth: int = 0


ANY_DIM = 1 << 30
TILES: dict[tuple[Kernel, int, int, Shape], Tile] = {  # (kernel, architecture, head dimension up to, shape)
    ("attention", 80, 64, "many"): Tile(64, 64, 4, 3),
    ("attention", 80, 128, "many"): Tile(64, 32, 4, 2),
    ("attention", 80, 256, "many"): Tile(32, 32, 4, 2),
    ("attention", 80, 64, "few"): Tile(16, 64, 4, 3),
    ("attention", 80, 128, "few"): Tile(16, 64, 4, 2),
    ("attention", 80, 256, "few"): Tile(16, 64, 8, 2),
    ("attention", 90, 64, "many"): Tile(128, 64, 8, 3),
    ("attention", 90, 128, "many"): Tile(128, 64, 8, 3),
    ("attention", 90, 256, "many"): Tile(64, 64, 8, 2),
    ("attention", 90, 64, "few"): Tile(16, 64, 4, 3),
    ("attention", 90, 128, "few"): Tile(16, 64, 4, 3),
    ("attention", 90, 256, "few"): Tile(16, 64, 8, 2),
    ("batch", 80, 64, "many"): Tile(64, 64, 4, 3),
    ("batch", 80, 128, "many"): Tile(64, 32, 4, 2),
    ("batch", 80, 256, "many"): Tile(32, 32, 4, 2),
    ("batch", 80, 64, "few"): Tile(16, 64, 4, 3),
    ("batch", 80, 128, "few"): Tile(16, 64, 4, 2),
    ("batch", 80, 256, "few"): Tile(16, 32, 8, 2),
    ("batch", 90, 64, "many"): Tile(128, 64, 8, 3),
    ("batch", 90, 128, "many"): Tile(128, 64, 8, 3),
    ("batch", 90, 256, "many"): Tile(64, 64, 8, 2),
    ("batch", 90, 64, "few"): Tile(16, 64, 4, 3),
    ("batch", 90, 128, "few"): Tile(16, 32, 4, 3),
    ("batch", 90, 256, "few"): Tile(16, 32, 8, 2),
    ("scores", 80, 64, "any"): Tile(32, 64, 4, 2),
    ("scores", 80, 128, "any"): Tile(32, 64, 4, 2),
    ("scores", 80, 256, "any"): Tile(32, 32, 4, 2),
    ("scores", 90, 64, "any"): Tile(32, 64, 4, 2),
    ("scores", 90, 128, "any"): Tile(32, 64, 4, 2),
    ("scores", 90, 256, "any"): Tile(32, 32, 4, 2),
    ("ingest", 80, 64, "any"): Tile(64, 64, 4, 2),
    ("ingest", 80, 128, "any"): Tile(64, 32, 4, 2),
    ("ingest", 80, 256, "any"): Tile(32, 32, 4, 2),
    ("ingest", 90, 64, "any"): Tile(128, 64, 8, 2),
    ("ingest", 90, 128, "any"): Tile(128, 64, 8, 2),
    ("ingest", 90, 256, "any"): Tile(64, 32, 8, 2),
    ("maxsim", 80, 128, "plain"): Tile(32, 64, 4, 3),
    ("maxsim", 80, 128, "codes"): Tile(32, 64, 4, 3),
    ("maxsim", 80, 512, "plain"): Tile(32, 32, 4, 2),
    ("maxsim", 80, 512, "codes"): Tile(32, 32, 4, 2),
    ("maxsim", 80, 1024, "plain"): Tile(16, 32, 4, 2),
    ("maxsim", 80, 1024, "codes"): Tile(16, 32, 4, 2),
    ("maxsim", 90, 128, "plain"): Tile(32, 128, 4, 3),
    ("maxsim", 90, 128, "codes"): Tile(32, 128, 4, 3),
    ("maxsim", 90, 512, "plain"): Tile(32, 64, 4, 2),
    ("maxsim", 90, 512, "codes"): Tile(32, 64, 4, 1),
    ("maxsim", 90, 1024, "plain"): Tile(16, 32, 4, 2),
    ("maxsim", 90, 1024, "codes"): Tile(16, 32, 4, 2),
    ("logprob", 80, ANY_DIM, "many"): Tile(64, 128, 4, 3, 32),
    ("logprob", 80, ANY_DIM, "few"): Tile(16, 128, 4, 3, 64),
    ("logprob", 90, ANY_DIM, "many"): Tile(64, 128, 4, 3, 32),
    ("logprob", 90, ANY_DIM, "few"): Tile(16, 128, 4, 3, 64),
}
FEW_ROWS = {"attention": 32, "logprob": 16}
"""Up to this many rows a problem is ``few``."""


def architecture(device: torch.device) -> int:
    """80 for every GPU before Hopper, 90 from it on."""
    import torch

    return 80 if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 9 else 90


def tile_for(kernel: Kernel, arch: int, dim: int, shape: Shape = "any") -> Tile:
    """The row of the table for heads of ``dim``. Raises ``ValueError`` for heads larger than any that was compiled."""
    fitting = [row for row in TILES if row[0] == kernel and row[1] == arch and row[3] == shape and row[2] >= dim]
    if not fitting:
        most = max((row[2] for row in TILES if row[0] == kernel), default=0)
        raise ValueError(f"the kernel {kernel} takes heads of at most {most} dimensions, not {dim}")
    return TILES[min(fitting)]


def shape_of(kernel: Literal["attention", "logprob"], num_rows: int) -> Shape:
    """``few`` or ``many``."""
    return "few" if num_rows <= FEW_ROWS[kernel] else "many"

"""Pages of a pool, read and written, against the same rows in a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rag.kernels.assemble import LayerKV, assemble_layers, assemble_reference
from rag.kernels.paged import assemble_pages, pieces_of_pages
from tests.kernels.pieces import pieces_of, table

PAGE_ROWS = 8


def pool_of(pieces: list[list[LayerKV]], pages: list[int], num_pages: int) -> list[LayerKV]:
    """The one chunk of ``pieces`` written into ``pages`` of a pool that holds NaN, or the largest code, everywhere else."""
    pool = []
    for layer in pieces[0]:
        parts: dict[str, Any] = {}
        for name, part in layer._asdict().items():
            if not isinstance(part, torch.Tensor) or name == "key_scales":
                parts[name] = part
                continue
            size = (part.shape[0], num_pages * PAGE_ROWS, *part.shape[2:])
            whole = torch.full(size, float("nan") if part.is_floating_point() else 127).to(part.dtype)
            for token in range(part.shape[1]):
                whole[:, pages[token // PAGE_ROWS] * PAGE_ROWS + token % PAGE_ROWS] = part[:, token]
            parts[name] = whole
        pool.append(LayerKV(**parts))
    return pool


@pytest.mark.parametrize("num_tokens", [1, 8, 29])
@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_a_chunk_in_pages_is_the_chunk(kind: str, num_tokens: int) -> None:
    pieces, pages = pieces_of(kind, [num_tokens], 32, 16, torch.float32), [5, 0, 3, 2]
    pool = pool_of(pieces, pages, 7)
    found, expected = ([torch.full((3, 2, 40, dim), -1.0) for dim in (32, 16)] for _ in range(2))
    cut, starts = pieces_of_pages(pool, pages, PAGE_ROWS, num_tokens, start=6)
    assert all(
        layer.keys.untyped_storage().data_ptr() == pool[n].keys.untyped_storage().data_ptr() for n, layer in enumerate(cut[0])
    )
    assemble_layers(cut, starts, *table(40, 16), "half", *found)
    assemble_reference(pieces, [6], *table(40, 16), "half", *expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("style", ["half", "interleaved", "none"])
@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_a_prompt_in_pages_is_the_prompt(kind: str, style: Any) -> None:
    pieces, starts, pages = pieces_of(kind, [5, 0, 20, 1], 32, 16, torch.bfloat16), [1, 7, 7, 30], [4, 6, 0, 3]
    turns = table(40, 0 if style == "none" else 16)
    found = [torch.full((3, 2, 7 * PAGE_ROWS, dim), -1.0).bfloat16() for dim in (32, 16)]
    expected = [torch.full((3, 2, 32, dim), -1.0).bfloat16() for dim in (32, 16)]
    assemble_pages(pieces, starts, *turns, style, *found, pages=pages, page_rows=PAGE_ROWS)
    assemble_reference(pieces, starts, *turns, style, *expected)
    slots = torch.tensor([pages[position // PAGE_ROWS] * PAGE_ROWS + position % PAGE_ROWS for position in range(32)])
    others = [slot for slot in range(7 * PAGE_ROWS) if slot not in slots.tolist()]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[:, :, slots], other) and bool((one[:, :, others] == -1).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pages": [0, 7]}, "page 7 is not among the 7"),
        ({"pages": [-1, 2]}, "page -1"),
        ({"pages": [0]}, "12 tokens do not fit into 1 pages of 8"),
        ({"pages": [1, 1]}, "named twice"),
        ({"page_rows": 9}, "pages of 9 rows do not make up a pool of 56"),
        ({"starts": [-1]}, "start at row -1"),
        ({"cos": torch.zeros(11, 16)}, "has 11 rows, 12 are needed"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    cos, sin = table(40, 16)
    fitting: dict[str, Any] = {"starts": [0], "cos": cos, "sin": sin, "style": "half", "pages": [2, 0], "page_rows": PAGE_ROWS}
    fitting |= {"keys": torch.zeros(3, 2, 56, 32), "values": torch.zeros(3, 2, 56, 16)} | change
    with pytest.raises(ValueError, match=words):
        assemble_pages(pieces_of("plain", [12], 32, 16, torch.float32), **fitting)
    with pytest.raises(ValueError, match="9 tokens do not fit"):
        pieces_of_pages(pool_of(pieces_of("plain", [1], 32, 16, torch.float32), [0], 2), [0], PAGE_ROWS, 9)

from __future__ import annotations

import pytest
import torch

from rag.kernels.assemble import LayerKV, assemble_layers
from rag.kernels.column_mass import column_mass
from rag.kernels.deviation import kv_deviation
from rag.kernels.quantise import dequantise_kv, layer_of, quantise_kv


@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_pieces_land_where_they_belong(kind: str) -> None:
    torch.manual_seed(0)
    stored = [(torch.randn(3, 2, tokens, 16), torch.randn(3, 2, tokens, 16)) for tokens in (5, 0, 7)]
    held = [LayerKV(keys, values) if kind == "plain" else quantise_kv(keys, values, kind) for keys, values in stored]  # type: ignore[arg-type]
    keys, values = torch.full((3, 2, 20, 16), float("nan")), torch.full((3, 2, 20, 16), float("nan"))
    angles = torch.rand(20, 8)
    assemble_layers(
        [[layer_of(kv, i) for i in range(3)] for kv in held], [1, 6, 8], angles.cos(), angles.sin(), "half", keys, values
    )
    plain_keys, plain_values = dequantise_kv(held[2])
    turned = torch.polar(torch.ones(7, 8), angles[8:15]) * torch.complex(plain_keys[..., :8], plain_keys[..., 8:])
    torch.testing.assert_close(keys[:, :, 8:15], torch.cat([turned.real, turned.imag], -1))
    torch.testing.assert_close(values[:, :, 8:15], plain_values)
    assert keys[:, :, [0, 6, 7, 15, 19]].isnan().all() and not keys[:, :, 1:6].isnan().any()


def test_small_functions() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 6, 16), torch.randn(2, 30, 16)
    mass = column_mass(queries, keys, torch.tensor([0, 3, 3, 9, 20, 28]), num_keys=29, scale=0.25)
    torch.testing.assert_close(mass.sum(), torch.tensor(24.0))
    deviation = kv_deviation(keys, keys, keys + 2, keys - 1, "kv")
    torch.testing.assert_close(deviation, torch.full((30,), 5.0 * 32))

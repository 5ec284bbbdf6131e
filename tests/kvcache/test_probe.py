"""What the probe finds out about models, and whom it refuses."""

from __future__ import annotations

import pytest
import torch

from rag.kernels.rotate import rotate
from rag.kvcache.hooked import Unsupported, projections
from rag.kvcache.probe import probe
from rag.kvcache.rotary import recognised
from tests.kvcache import prompts, tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_geometry_and_windows_are_those_of_the_configuration(family: str) -> None:
    traits, config = prompts.decoder(family).traits, tiny.network(family).config
    assert (traits.geometry.num_layers, traits.geometry.num_kv_heads) == (config.num_hidden_layers, config.num_key_value_heads)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * 4
    if family == "mistral-sliding":
        kinds = ["sliding_attention"] * 4
    assert [layer.window for layer in traits.layers] == [9 if kind == "sliding_attention" else None for kind in kinds]


@pytest.mark.parametrize(
    ("family", "styles", "num_rotated"),
    [
        ("llama", {"half"}, 16),
        ("glm-partial-interleaved", {"interleaved"}, 8),
        ("phi-partial", {"half"}, 8),
        ("cohere-interleaved", {"interleaved"}, 16),
        ("gemma3-two-thetas", {"half"}, 16),
    ],
)
def test_the_rotation_is_recognised(family: str, styles: set[str], num_rotated: int) -> None:
    traits = prompts.decoder(family).traits
    assert {rotary.style for rotary in traits.rotaries} == styles
    cos, _ = traits.rotaries[0].table(torch.arange(3), torch.zeros(1))
    assert 2 * cos.shape[1] == num_rotated


def test_layers_without_rotation_and_with_another_base_are_told_apart() -> None:
    assert [layer.rotary for layer in prompts.decoder("smollm3-nope").traits.layers] == [0, 0, 0, None]
    gemma = prompts.decoder("gemma3-two-thetas").traits
    assert [layer.rotary for layer in gemma.layers] == [0, 0, 1, 0]
    tables = [rotary.table(torch.arange(9), torch.zeros(1))[0] for rotary in gemma.rotaries]
    assert not torch.equal(*tables)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gpt2", "self_attn"), ("opt", "cosines"), ("bloom", "self_attn"), ("mamba", "self_attn"), ("falcon-alibi", "self_attn")],
)
def test_models_whose_positions_cannot_be_moved_are_refused_by_name(family: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason) as refused:
        probe(tiny.network(family))
    assert type(tiny.network(family)).__name__ in str(refused.value)


def test_a_rotation_nobody_knows_is_refused() -> None:
    keys, angles = torch.randn(2, 5, 16), torch.rand(1, 5, 16)
    cos, sin = angles.cos(), angles.sin()
    assert recognised({"k": keys}, {"k": keys.flip(-1)}, cos, sin, 1e-4) is None
    turned = rotate(keys, cos[0, :, :8], sin[0, :, :8], "half")
    assert recognised({"k": keys}, {"k": turned}, cos, sin, 1e-4) == ("half", "first half")


def test_the_model_is_left_as_it_was() -> None:
    network = tiny.network("llama")
    ids = tiny.ids(9)
    before, implementation = prompts.stock_logits("llama", ids), network.config._attn_implementation
    probe(network)
    assert network.config._attn_implementation == implementation
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.model.layers)
    assert torch.equal(prompts.stock_logits("llama", ids), before)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_i2_stored_keys_turned_by_us_are_the_models_own_bit_for_bit(family: str) -> None:
    """In float32, in every layer: un-rotated keys and our rotation give exactly what the model's layer writes."""
    decode = prompts.decoder(family)
    hidden = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([0, 3, 200, 511, 800])
    for index, (layer, traits) in enumerate(zip(decode.layers, decode.traits.layers, strict=True)):
        if traits.rotary is None:
            continue
        rotary = decode.traits.rotaries[traits.rotary]
        pair = rotary.module(hidden, position_ids=positions[None], **dict(rotary.extra))
        own = projections(decode.network, layer, hidden, {"position_embeddings": pair, "position_ids": positions[None]})
        plain = projections(decode.network, layer, hidden, {"position_embeddings": decode.traits.neutral[index]})
        assert torch.equal(own.values, plain.values)
        assert torch.equal(rotate(plain.keys, *rotary.table(positions, hidden), rotary.style), own.keys)

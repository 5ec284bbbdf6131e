"""Layers of 16-bit weights multiplied as float32: their numbers, what they leave alone, and a whole language model of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag.kernels import narrow_linear
from rag.kernels.narrow_linear import FEW_ROWS, NARROW, WidenedLinear, multiplies, widen_products
from rag.lm import TransformersLM
from rag.lm_nll import plain_head
from tests.tiny_models import save_llama


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies no 16-bit numbers."""
    monkeypatch.setattr(narrow_linear, "multiplies", lambda dtype: dtype not in NARROW)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (FEW_ROWS, 48), (FEW_ROWS + 1, 48), (2, 20, 48), (0, 48)])
def test_the_result_is_the_exact_product_rounded_once(
    slow: None, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, biased: bool, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(narrow_linear, "_BLOCK_BYTES", 4 * 48 * 7)  # 80 outputs in blocks of 7, the last of 3
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=biased).to(dtype)
    x = torch.randn(shape).to(dtype)
    assert widen_products(torch.nn.Sequential(layer)) == 1 and isinstance(layer, WidenedLinear)
    with torch.inference_mode():
        found = layer(x)
        exact = x.double() @ layer.weight.double().t() + (layer.bias.double() if biased else 0)
    assert found.dtype == dtype and found.shape == (*shape[:-1], 80)
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_many_rows_are_multiplied_as_float32(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(8, 8).bfloat16()
    widen_products(torch.nn.Sequential(layer))
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: pytest.fail("torch's own product"))
    layer(torch.ones(FEW_ROWS + 1, 8, dtype=torch.bfloat16))
    with pytest.raises(pytest.fail.Exception, match="torch's own product"):
        layer(torch.ones(FEW_ROWS, 8, dtype=torch.bfloat16))


def test_gradients_are_those_of_the_layer(slow: None) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8).bfloat16()
    wide = torch.nn.Linear(8, 8)
    wide.load_state_dict(layer.state_dict())
    widen_products(torch.nn.Sequential(layer))
    x = torch.randn(40, 8).bfloat16()
    for network, rows in ((layer, x), (wide, x.float())):
        network(rows).sum().backward()
    assert layer.weight.grad is not None and wide.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.float(), wide.weight.grad, rtol=2e-2, atol=2e-2)


def test_other_layers_are_left_alone(slow: None) -> None:
    class Adapted(torch.nn.Linear):
        pass

    layers = [
        torch.nn.Linear(4, 4),
        Adapted(4, 4).bfloat16(),
        torch.nn.Linear(4, 4, device="meta").bfloat16(),
        torch.nn.LayerNorm(4),
    ]
    before = [type(layer) for layer in layers]
    assert widen_products(torch.nn.Sequential(*layers)) == 0
    assert [type(layer) for layer in layers] == before


def test_a_processor_that_multiplies_them_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_linear, "multiplies", lambda dtype: True)
    layer = torch.nn.Linear(4, 4).bfloat16()
    assert widen_products(torch.nn.Sequential(layer)) == 0 and type(layer) is torch.nn.Linear


def test_what_the_processor_multiplies_is_asked_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplies.cache_clear()
    assert multiplies(torch.float32)
    if narrow_linear.has_onednn():
        assert multiplies(torch.bfloat16) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
        assert multiplies(torch.float16) == torch.ops.mkldnn._is_mkldnn_fp16_supported()
    multiplies.cache_clear()
    monkeypatch.setattr(narrow_linear, "has_onednn", lambda: False)
    assert multiplies(torch.float32) and not multiplies(torch.bfloat16) and not multiplies(torch.float16)
    multiplies.cache_clear()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_language_model_is_as_near_as_with_torchs_own_products(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str
) -> None:
    folder = str(save_llama(tmp_path / "llama"))
    text = "The tower is 330 metres tall and was built in 1889. " * 6

    def logprobs(dtype: str, is_slow: bool) -> torch.Tensor:
        monkeypatch.setattr(narrow_linear, "multiplies", lambda dtype: not is_slow)
        lm = TransformersLM(folder, dtype=dtype)
        assert isinstance(lm._network.model.layers[0].mlp.up_proj, WidenedLinear) == is_slow
        assert plain_head(lm._network) is not None
        return torch.tensor(lm.logprobs([text])[0].logprobs[1:])  # the first has nothing before it

    exact = logprobs("float32", is_slow=False)
    own, widened = (float((logprobs(dtype, is_slow) - exact).square().mean().sqrt()) for is_slow in (False, True))
    assert widened < 1.2 * own + 1e-3 and widened < 0.03 * float(exact.abs().mean())

"""One forward pass of a transformers model with every attention handed to a ``Step``. Knows no cache, no rotation, no method.

Nothing is patched: attention goes through transformers' ``AttentionInterface`` (and its twin for masks, without which keys would
be cropped), and a pre-hook stands before each decoder layer, so a step may take rows out of the hidden states between layers.
The model's own forward does everything else: embeddings, norms, experts, scaling of logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rag.errors import ModelError

if TYPE_CHECKING:
    import torch

ATTENTION = "ragstone"
STEP = "ragstone_step"


class Unsupported(ModelError):
    """The keys and values of this model cannot be reused, and why."""


class Projected(NamedTuple):
    """What an attention layer made of its rows: queries ``[Hq, T, Dk]``, keys ``[Hkv, T, Dk]``, values ``[Hkv, T, Dv]``.

    ``extras``: what the layer said beside (``scaling``, ``sliding_window``, ``softcap``, ``s_aux``).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    extras: dict[str, Any]


class Step(Protocol):
    """What happens in one forward pass at the places where a cache matters."""

    def before_layer(self, index: int, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """The hidden states ``[1, T, width]`` that layer ``index`` shall see; may change ``kwargs`` in place."""
        ...

    def attend(self, index: int, projected: Projected) -> torch.Tensor:
        """The attention of layer ``index``: ``[T, Hq, Dv]``."""
        ...

    def after_layers(self, hidden: torch.Tensor) -> torch.Tensor:
        """The rows, ``[1, kept, width]``, whose logits are wanted."""
        ...


class ProjectedOnly(Exception):
    """Ends a layer as soon as its queries, keys and values are known."""

    def __init__(self, projected: Projected) -> None:
        super().__init__()
        self.projected = projected


class _StopAtAttention:
    """A step that wants the projections of one layer and nothing after them."""

    def before_layer(self, index: int, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        return hidden

    def attend(self, index: int, projected: Projected) -> torch.Tensor:
        raise ProjectedOnly(projected)

    def after_layers(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def decoder_layers(network: Any) -> list[Any]:
    """The decoder layers of a causal LM, in order. Raises ``Unsupported`` if they cannot be told from its modules."""
    import torch

    count = network.config.get_text_config().num_hidden_layers
    found = [module for module in network.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == count]
    decoders = [module for module in found if all(hasattr(layer, "self_attn") for layer in module)]
    if len(decoders) != 1:
        raise Unsupported(f"{type(network).__name__}: no list of {count} layers with `self_attn` was found, so no keys to reuse")
    return list(decoders[0])


@contextmanager
def handed_over(network: Any) -> Iterator[None]:
    """Within it, the attention of ``network`` goes to the step named in the call. Not to be entered by two threads at once."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    before = network.config._attn_implementation
    if before == ATTENTION:
        yield
        return
    network.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def run(network: Any, layers: Sequence[Any], ids: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
    """Logits, float32 ``[kept, vocabulary]``, of the rows that ``step`` keeps after a pass of ``ids [T]``."""
    import torch

    hooks = [layer.register_forward_pre_hook(_before(index, step), with_kwargs=True) for index, layer in enumerate(layers)]
    hooks.append(layers[-1].register_forward_hook(_after(step)))
    try:
        with torch.inference_mode(), handed_over(network):
            out = network(input_ids=ids[None], position_ids=positions[None], use_cache=False, **{STEP: step})
        return out.logits[0].float()  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


def projections(network: Any, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> Projected:
    """What ``layer`` projects ``hidden [1, T, width]`` to; its attention, feed-forward and residuals are not computed."""
    import torch

    called = {**kwargs, STEP: _StopAtAttention()}
    try:
        with torch.inference_mode(), handed_over(network):
            layer.forward(hidden, **called)  # not through __call__: the hooks of a pass under way must not see it
    except ProjectedOnly as stopped:
        return stopped.projected
    raise Unsupported(f"{type(network).__name__}: a layer ended without asking transformers' AttentionInterface")


def _before(index: int, step: Step) -> Any:
    def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return (step.before_layer(index, layer, hidden, kwargs), *args[1:]), kwargs

    return hook


def _after(step: Step) -> Any:
    def hook(layer: Any, args: tuple[Any, ...], out: Any) -> Any:
        return (step.after_layers(out[0]), *out[1:]) if isinstance(out, tuple) else step.after_layers(out)

    return hook


def _attend(
    module: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any, **extras: Any
) -> tuple[torch.Tensor, None]:
    step = extras.pop(STEP, None)
    if step is None:
        raise Unsupported(f"{type(module).__name__} does not pass unknown keywords on to its attention function")
    return step.attend(module.layer_idx, Projected(queries[0], keys[0], values[0], extras))[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """A step brings its own mask: which rows see which keys is a question of absolute positions."""

"""What a loaded model is, as far as its keys and values go: found out by running it once. Knows no list of model names.

A model can have its chunk caches reused if its keys depend on the position by a rotation we know, its values and hidden states
do not depend on it, and every layer asks transformers' ``AttentionInterface``. All three are observed, none is assumed, so a
model of tomorrow works if it works and is refused with the reason if it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.kvcache.hooked import Projected, Unsupported, decoder_layers, projections, run
from rag.kvcache.rotary import Rotary, recognised

if TYPE_CHECKING:
    import torch

NUM_PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a chunk's keys and values, the same in every layer."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: str

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values of all layers, stored as they are."""
        size = 4 if self.dtype == "float32" else 2
        return self.num_layers * self.num_kv_heads * (self.key_dim + self.value_dim) * size


@dataclass(frozen=True, slots=True)
class LayerTraits:
    """How one layer attends: which of the model's rotations (``None``: it does not rotate) and how far back it sees."""

    rotary: int | None
    window: int | None


@dataclass(frozen=True, slots=True)
class Traits:
    """Everything that reuse has to know of a model."""

    geometry: Geometry
    rotaries: tuple[Rotary, ...]
    layers: tuple[LayerTraits, ...]
    neutral: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Per layer the cosines and sines, ``[1, 1, R]``, that leave its keys as they are."""


class _Record:
    """Attends as the model would, and keeps what every layer was given and what it projected."""

    def __init__(self) -> None:
        self.hidden: dict[int, torch.Tensor] = {}
        self.kwargs: dict[int, dict[str, Any]] = {}
        self.projected: dict[int, Projected] = {}

    def before_layer(self, index: int, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        self.hidden[index], self.kwargs[index] = hidden.clone(), dict(kwargs)
        return hidden

    def attend(self, index: int, projected: Projected) -> torch.Tensor:
        import torch

        self.projected[index] = projected
        heads = projected.queries.shape[0] // projected.keys.shape[0]
        keys, values = (part.repeat_interleave(heads, dim=0) for part in projected[1:3])
        out = torch.nn.functional.scaled_dot_product_attention(projected.queries, keys, values, is_causal=True)
        return out.transpose(0, 1)

    def after_layers(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, -1:]


def probe(network: Any) -> Traits:
    """Runs ``network`` (a transformers causal LM) on a few tokens and tells what its keys are made of.

    Raises ``Unsupported`` with the reason if its chunk caches cannot be reused.
    """
    import torch

    name, layers = type(network).__name__, decoder_layers(network)
    record, tables = _Record(), _Tables(network, layers)
    positions = torch.arange(NUM_PROBE_TOKENS, device=network.device)
    vocabulary = int(network.config.get_text_config().vocab_size)
    ids = torch.randint(vocabulary, (NUM_PROBE_TOKENS,), generator=torch.Generator().manual_seed(7)).to(network.device)
    with tables:
        run(network, layers, ids, positions, record)
    if sorted(record.projected) != list(range(len(layers))):
        missing = sorted(set(range(len(layers))) - set(record.projected))
        raise Unsupported(f"{name}: layers {missing} keep no keys of their own")
    rotaries: list[Rotary] = []
    traits = [_layer_traits(network, index, layer, record, tables, rotaries) for index, layer in enumerate(layers)]
    return Traits(_geometry(network, record), tuple(rotaries), tuple(traits), _neutral(record))


def _layer_traits(network: Any, index: int, layer: Any, record: _Record, tables: _Tables, rotaries: list[Rotary]) -> LayerTraits:
    name, kwargs = type(network).__name__, record.kwargs[index]
    cos, sin = _cosines(name, kwargs)
    tolerance = 1e-4 if cos.dtype.itemsize == 4 else 3e-2
    kwargs = {**kwargs, "position_embeddings": (cos[:, :1].new_ones(1, 1, cos.shape[-1]), sin.new_zeros(1, 1, sin.shape[-1]))}
    plain = projections(network, layer, record.hidden[index], kwargs)
    rotated = record.projected[index]
    if not (plain.values == rotated.values).all():
        raise Unsupported(f"{name}: the values of layer {index} depend on the position")
    found = recognised(
        {"keys": plain.keys, "queries": plain.queries}, {"keys": rotated.keys, "queries": rotated.queries}, cos, sin, tolerance
    )
    if found is None:
        raise Unsupported(f"{name}: layer {index} changes its keys with the position in a way that is no rotation known here")
    style, part = found
    window = _window(network, index, rotated.extras)
    if style == "none":
        return LayerTraits(None, window)
    module, extra = tables.maker(name, cos)
    rotary = Rotary(module, extra, style, part)
    if rotary not in rotaries:
        rotaries.append(rotary)
    return LayerTraits(rotaries.index(rotary), window)


def _cosines(name: str, kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    pair = kwargs.get("position_embeddings")
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(table, torch.Tensor) for table in pair):
        raise Unsupported(f"{name}: its layers are not given rotary cosines and sines, so its positions cannot be moved")
    if pair[0].dim() != 3 or pair[0].shape[0] != 1 or not pair[0].is_floating_point():
        raise Unsupported(f"{name}: its rotary tables have the shape {tuple(pair[0].shape)}; [1, tokens, dims] can be moved")
    return pair


def _window(network: Any, index: int, extras: dict[str, Any]) -> int | None:
    """How many keys back a row of the layer sees, itself included."""
    config = network.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    kind = kinds[index] if kinds else None
    if kind not in (None, "full_attention", "sliding_attention"):
        raise Unsupported(
            f"{type(network).__name__}: layer {index} is of the type {kind!r}; full and sliding attention can be reused"
        )
    window = extras.get("sliding_window")
    if window is None and kind == "sliding_attention":
        window = config.sliding_window
    return int(window) if window and kind != "full_attention" else None


def _geometry(network: Any, record: _Record) -> Geometry:
    shapes = {(p.queries.shape[0], p.keys.shape[0], p.keys.shape[-1], p.values.shape[-1]) for p in record.projected.values()}
    if len(shapes) != 1:
        raise Unsupported(f"{type(network).__name__}: its layers differ in heads or dimensions: {sorted(shapes)}")
    (num_heads, num_kv_heads, key_dim, value_dim), dtype = shapes.pop(), record.projected[0].keys.dtype
    return Geometry(len(record.projected), num_heads, num_kv_heads, key_dim, value_dim, str(dtype).removeprefix("torch."))


def _neutral(record: _Record) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    pairs = (record.kwargs[index]["position_embeddings"] for index in sorted(record.kwargs))
    return tuple((cos.new_ones(1, 1, cos.shape[-1]), sin.new_zeros(1, 1, sin.shape[-1])) for cos, sin in pairs)


class _Tables:
    """Watches which module makes which rotary table, and with which further arguments."""

    def __init__(self, network: Any, layers: Sequence[Any]) -> None:
        inside = {id(module) for layer in layers for module in layer.modules()}
        self._watched = [module for module in network.modules() if id(module) not in inside and not list(module.children())]
        self._made: list[tuple[Any, tuple[tuple[str, Any], ...], torch.Tensor]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        self._hooks = [module.register_forward_hook(self._note, with_kwargs=True) for module in self._watched]

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if isinstance(out, tuple) and len(out) == 2:
            names = ("x", "position_ids", "layer_type")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            extra = tuple(sorted((name, value) for name, value in given.items() if name not in names[:2]))
            self._made.append((module, extra, out[0]))

    def maker(self, name: str, cos: torch.Tensor) -> tuple[Any, tuple[tuple[str, Any], ...]]:
        for module, extra, made in self._made:
            if made is cos:
                return module, extra
        raise Unsupported(f"{name}: no module of it makes its rotary tables, so they cannot be made for other positions")

"""Frozen parts of a model, at any depth, in its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_dlrm.backend.private_keras import layers_just_in, own_trainable_variables

Frozen = dict[str, bool]


def frozen_of(model: Any) -> Frozen:
    """Parts of a model that are not as trainable as what they are in.

    Args:
        model: A model or layer.

    Returns:
        Path → `trainable`, what is outside before what is inside. A path has the attributes that layers are, as in
        `top_mlp/dense_layers.0`, because names that Keras gives count up within a process; `#N` stands for the N-th layer where
        it is no attribute, and at the end `@N` for the N-th variable. The model itself is "". Empty where nothing is frozen.

    Example:

    >>> model = kd.models.DLRM(kd.Schema(["I1"], [kd.Categorical("C1", 3)]), 2, bottom_mlp=[2], top_mlp=[1])
    >>> model.top_mlp.dense_layers[0].bias.trainable = False
    >>> frozen_of(model)
    {'top_mlp/dense_layers.0/@1': False}
    """
    found: Frozen = {}
    for path, around, layer in _walk(model, "", True):
        if layer.trainable != around:
            found[path] = layer.trainable
        if layer.trainable:
            for i, variable in enumerate(own_trainable_variables(layer)):
                if not variable.trainable:
                    found[_inside(path, f"@{i}")] = False
    return found


def with_frozen(config: dict[str, Any], model: Any) -> dict[str, Any]:
    """A configuration, with what is frozen as `"frozen"`, if anything is.

    Args:
        config: Of the model.
        model: The model.
    """
    frozen = frozen_of(model)
    return {**config, "frozen": frozen} if frozen else config


def freeze(model: Any, frozen: Mapping[str, bool] | Sequence[str]) -> None:
    """Make the parts of a model as trainable as those of the one that `frozen_of` was asked of.

    Args:
        model: A model or layer of the same configuration.
        frozen: What `frozen_of` gave; or names of layers, as earlier versions of this package wrote them.

    Raises:
        ValueError: it names a part that the model does not have.
    """
    if not isinstance(frozen, Mapping):
        for layer in model.layers:
            if layer.name in frozen:
                layer.trainable = False
        return
    for path, trainable in frozen.items():
        part = model
        for place in path.split("/") if path else ():
            inside = {f"@{i}": v for i, v in enumerate(own_trainable_variables(part))} if place[0] == "@" else _layers(part)
            if place not in inside:
                raise ValueError(
                    f"{model.name}: the configuration freezes part {path!r}, which the model does not have; make its layers in "
                    "__init__, the same ones as when it was saved."
                )
            part = inside[place]
        part.trainable = trainable


def _walk(layer: Any, path: str, around: bool) -> Iterator[tuple[str, bool, Any]]:
    yield path, around, layer
    for place, part in _layers(layer).items():
        yield from _walk(part, _inside(path, place), layer.trainable)


def _layers(layer: Any) -> dict[str, Any]:
    """Layers in a layer, by what a path calls them."""
    names: dict[int, str] = {}
    # torch keeps attributes that are modules apart.
    modules = dict(layer.named_children()) if hasattr(layer, "named_children") else {}
    for name, value in {**vars(layer), **modules}.items():
        if not name.startswith("_"):
            several = isinstance(value, (list, tuple))
            names.update({id(part): f"{name}.{i}" for i, part in enumerate(value)} if several else {id(value): name})
    inside = layers_just_in(layer)
    return {names.get(id(part), f"#{i}"): part for i, part in enumerate(inside)}


def _inside(path: str, place: str) -> str:
    return f"{path}/{place}" if path else place

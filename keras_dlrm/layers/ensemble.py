"""Ensemble of interactions: the layer of DHEN."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, new_seed
from keras_dlrm.support.arguments import choice


@keras.saving.register_keras_serializable("keras_dlrm")
class Ensemble(keras.layers.Layer):
    """LN(interactions of X, summed or below one another, + shortcut of X); a stack of these layers is DHEN.

    The shortcut is X, or linear combinations of its vectors where their number changes.

    Args:
        interactions: Layers that map (B, F, D) to (B, m, D); m is the same for all that are summed.
        combine: `"sum"` or `"concat"`.
        seed: Seed of the shortcut's initial weights; a fresh one if omitted.

    Input: (B, F, D).
    Output: (B, m, D), or (B, Σ m, D) with `"concat"`.

    Raises:
        ValueError: no interactions, or shapes that do not fit.

    Source: Zhang et al. 2022, "DHEN: A Deep and Hierarchical Ensemble Network for Large-Scale Click-Through Rate Prediction",
    equations 1 and 2.

    Example:

    >>> attention, products = kd.layers.FieldAttention(heads=2, head_dim=4), kd.layers.WukongLayer(3, 2)
    >>> tuple(Ensemble([attention, products])(np.ones((2, 5, 8), "float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self, interactions: Sequence[Any], combine: str = "sum", seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        choice("Ensemble", "combine", combine, ("sum", "concat"))
        self.interactions = [
            keras.saving.deserialize_keras_object(dict(layer)) if isinstance(layer, Mapping) else layer for layer in interactions
        ]
        if not self.interactions:
            raise ValueError("Ensemble: interactions=[] must have at least one layer.")
        self.combine, self.seed = combine, new_seed(seed)
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, input_shape: Sequence[int | None]) -> None:
        for layer in self.interactions:
            if not layer.built:
                layer.build(input_shape)
        shape = self.compute_output_shape(input_shape)
        self.shortcut = None
        if shape[1] != input_shape[1]:
            initializer = ReferenceKernel([self.seed, 0])
            self.shortcut = self.add_weight(name="shortcut", shape=(input_shape[1], shape[1]), initializer=initializer)
        self.norm.build(shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        outputs = [ops.cast(layer(inputs), self.compute_dtype) for layer in self.interactions]
        combined = sum(outputs[1:], outputs[0]) if self.combine == "sum" else ops.concatenate(outputs, axis=1)
        if self.shortcut is None:
            return self.norm(combined + inputs)
        return self.norm(combined + ops.transpose(ops.matmul(ops.transpose(inputs, (0, 2, 1)), self.shortcut), (0, 2, 1)))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        shapes = [tuple(layer.compute_output_shape(input_shape)) for layer in self.interactions]
        for layer, shape in zip(self.interactions, shapes, strict=True):
            if len(shape) != 3 or shape[2] != input_shape[2] or (self.combine == "sum" and shape[1] != shapes[0][1]):
                wanted = f"(B, {shapes[0][1] if self.combine == 'sum' else 'm'}, {input_shape[2]})"
                raise ValueError(f"Ensemble: {type(layer).__name__} {layer.name!r} gives {shape}; it must give {wanted}.")
        count = shapes[0][1] if self.combine == "sum" else sum(shape[1] for shape in shapes)
        return (input_shape[0], count, input_shape[2])

    def get_config(self) -> dict[str, Any]:
        interactions = [keras.saving.serialize_keras_object(layer) for layer in self.interactions]
        for layer in interactions:
            layer.pop("build_config", None)  # they are built with this one
        return {**super().get_config(), "interactions": interactions, "combine": self.combine, "seed": self.seed}

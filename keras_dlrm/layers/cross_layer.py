"""Cross layers of the Deep & Cross Networks, version 1 and 2."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceKernel, new_seed, part_seed
from keras_dlrm.layers.gated_cross import GatedCross
from keras_dlrm.support.arguments import choice, integer, number


@keras.saving.register_keras_serializable("keras_dlrm")
class CrossLayer(keras.layers.Layer):
    """One explicit feature cross of x₀ (B, n) with xₗ (B, n).

    - `kind="vector"` (DCN v1): x₀ (xₗᵀw) + b + xₗ
    - `kind="matrix"` (DCN v2): x₀ ⊙ (W xₗ + b) + xₗ
    - `kind="matrix", projection_dim=r` (DCN v2, low rank): x₀ ⊙ (W (V xₗ) + b) + xₗ with V: n → r, W: r → n

    Args:
        kind: `"vector"` or `"matrix"`.
        projection_dim: Rank r of the low-rank form; `None` for the full matrix.
        kernel_l2: L2 factor of the kernels, or 0.
        seed: Seed of the initial weights; a fresh one if omitted.

    Call arguments:
        x0: (B, n), the network's input.
        x: (B, n), the previous cross layer's output; x0 if omitted.

    Source: Wang et al. 2017, equation 3 (v1); Wang et al. 2021, equations 1 and 2 (v2).

    Example:

    >>> x0 = np.ones((2, 5), "float32")
    >>> CrossLayer(projection_dim=2)(x0, CrossLayer("vector")(x0)).shape[-1]
    5
    """

    def __init__(
        self, kind: str = "matrix", projection_dim: int | None = None, kernel_l2: float = 0.0, seed: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        choice("CrossLayer", "kind", kind, ("vector", "matrix"))
        if projection_dim is not None and kind != "matrix":
            raise ValueError(f"CrossLayer: projection_dim={projection_dim!r} needs kind='matrix', not {kind!r}.")
        self.kind = kind
        self.projection_dim = None if projection_dim is None else integer("CrossLayer", "projection_dim", projection_dim)
        self.kernel_l2 = number("CrossLayer", "kernel_l2", kernel_l2)
        self.seed = new_seed(seed)

    def build(self, x0_shape: Any, x_shape: Any = None) -> None:
        n = x0_shape[-1]
        regularizer = keras.regularizers.L2(self.kernel_l2) if self.kernel_l2 else None

        def kernel(name: str, shape: tuple[int, int], part: int) -> Any:
            initializer = ReferenceKernel([self.seed, part])
            return self.add_weight(name=name, shape=shape, initializer=initializer, regularizer=regularizer)

        if self.projection_dim is not None:
            self.down = kernel("down", (n, self.projection_dim), 0)
            self.kernel = kernel("kernel", (self.projection_dim, n), 1)
        else:
            self.kernel = kernel("kernel", (n, 1 if self.kind == "vector" else n), 0)
        self.bias = self.add_weight(name="bias", shape=(n,), initializer="zeros")
        self.built = True

    def call(self, x0: Any, x: Any = None) -> Any:
        x = x0 if x is None else x
        projected = backend.project(x, self.down) if self.projection_dim is not None else x
        crossed = backend.project(projected, self.kernel)
        if self.kind == "vector":
            return x0 * crossed + self.bias + x
        return x0 * (crossed + self.bias) + x

    def compute_output_shape(self, x0_shape: Any, x_shape: Any = None) -> Any:
        return x0_shape

    def get_config(self) -> dict[str, Any]:
        options = ("kind", "projection_dim", "kernel_l2", "seed")
        return super().get_config() | {name: getattr(self, name) for name in options}  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class CrossOptions:
    """Options of a cross network: at least one cross layer, one after another, each of which sees the network's input, too.

    See `CrossLayer` for the others; the kind may also be `"gated"`, for `GatedCross`. `who` is the model, for errors.
    """

    cross_layers: int
    projection_dim: int | None = None
    kernel_l2: float = 0.0
    kind: str = "matrix"
    who: dataclasses.InitVar[str] = "CrossOptions"

    def __post_init__(self, who: str) -> None:
        object.__setattr__(self, "cross_layers", integer(who, "cross_layers", self.cross_layers))
        if self.projection_dim is not None:
            object.__setattr__(self, "projection_dim", integer(who, "projection_dim", self.projection_dim))
        if self.kind == "gated" and self.projection_dim is not None:
            raise ValueError(f"{who}: projection_dim={self.projection_dim!r}: gated cross layers have no low rank; leave it out.")

    def layers(self, seed: int, dtype: Any) -> list[CrossLayer | GatedCross]:
        """The layers, for a model of that seed and a dtype policy."""
        return [self._layer(part_seed(seed, 3, i), dtype=dtype, name=f"cross_layer_{i}") for i in range(self.cross_layers)]

    def _layer(self, seed: int, **kwargs: Any) -> CrossLayer | GatedCross:
        if self.kind == "gated":
            return GatedCross(self.kernel_l2, seed, **kwargs)
        return CrossLayer(self.kind, self.projection_dim, self.kernel_l2, seed, **kwargs)


def crossed(layers: Sequence[CrossLayer | GatedCross], x0: Any) -> Any:
    """Output (B, n) of a network of cross layers for its input x₀ (B, n)."""
    x = x0
    for layer in layers:
        x = layer(x0, x)
    return x

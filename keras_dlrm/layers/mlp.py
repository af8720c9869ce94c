"""MLPs: a stack of Dense layers initialized as in the reference, the bottom one and the top one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceBias, ReferenceKernel, new_seed, part_seed
from keras_dlrm.support.arguments import number, widths


@dataclasses.dataclass(frozen=True)
class MLPOptions:
    """Options of an MLP, but for its seed; `ValueError` for a number out of range.

    `who` is the layer or model, and `field` its name for the widths, for errors.
    """

    units: Sequence[int]
    activation: Any = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    kernel_l2: float = 0.0
    who: dataclasses.InitVar[str] = "MLP"
    field: dataclasses.InitVar[str] = "units"

    def __post_init__(self, who: str, field: str) -> None:
        checked = {
            "units": widths(who, field, self.units),
            "activation": _activation(who, self.activation),
            "dropout": number(who, "dropout", self.dropout, below=1.0),
            "batch_norm": bool(self.batch_norm),
            "kernel_l2": number(who, "kernel_l2", self.kernel_l2),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def config(self) -> dict[str, Any]:
        """The options as plain values."""
        return {**vars(self), "activation": keras.activations.serialize(self.activation)}


def _activation(who: str, activation: Any) -> Any:
    try:
        return keras.activations.get(activation)
    except ValueError as error:
        raise ValueError(f"{who}: activation={activation!r} is unknown; use one of keras.activations, such as 'relu'.") from error


class Dense(keras.layers.Dense):
    """Keras's Dense, whose product is the seam's: bfloat16 is fast on JAX's CPU, too."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = backend.project(inputs, self.kernel)
        x = x if self.bias is None else ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        # Keras refuses subclasses, which may do something else.
        super().quantize(mode, type_check=False, config=config)


@keras.saving.register_keras_serializable("keras_dlrm")
class MLP(keras.layers.Layer):
    """A stack of Dense layers. Use `BottomMLP` and `TopMLP`, which say what follows the last one.

    Each hidden layer is Dense → batch norm (if asked) → activation → dropout (if asked).
    """

    #: Whether the last layer is a hidden one (activated) or gives logits.
    activate_last = True

    def __init__(
        self, units: Sequence[int], activation: Any = "relu", dropout: float = 0.0, batch_norm: bool = False,
        kernel_l2: float = 0.0, seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        who = type(self).__name__
        self.options = MLPOptions(units, activation, dropout, batch_norm, kernel_l2, who=who)
        if not self.options.units:
            raise ValueError(f"{who}: units=[] must have at least one entry.")
        self.units, self.activation, self.dropout, self.batch_norm, self.kernel_l2 = vars(self.options).values()
        self.seed = new_seed(seed)
        self.dense_layers: list[Dense] = []
        self.norms: list[keras.layers.BatchNormalization] = []
        self.dropouts: list[keras.layers.Dropout] = []
        for i, width in enumerate(self.units):
            hidden = self.activate_last or i < len(self.units) - 1
            dense = Dense(
                width,
                kernel_initializer=ReferenceKernel([self.seed, i, 0]),
                bias_initializer=ReferenceBias([self.seed, i, 1]),
                kernel_regularizer=keras.regularizers.L2(self.kernel_l2) if self.kernel_l2 else None,
                # Logits in 8 bits of mantissa would cost accuracy: the last layer stays in float32.
                dtype=self.dtype_policy if hidden else "float32",
                name=f"dense_{i}",
            )
            self.dense_layers.append(dense)
            if hidden and self.batch_norm:
                self.norms.append(keras.layers.BatchNormalization(dtype=self.dtype_policy, name=f"norm_{i}"))
            if hidden and self.dropout:
                seed = part_seed(self.seed, i)
                dropped = keras.layers.Dropout(self.dropout, seed=seed, dtype=self.dtype_policy, name=f"dropout_{i}")
                self.dropouts.append(dropped)

    def build(self, input_shape: Sequence[int | None]) -> None:
        if input_shape[-1] is None:
            raise ValueError(f"{type(self).__name__}: the last dimension of the input {tuple(input_shape)} is unknown.")
        shape = (None, input_shape[-1])
        for i, dense in enumerate(self.dense_layers):
            dense.build(shape)
            shape = (None, dense.units)
            for group in (self.norms, self.dropouts):
                if i < len(group):
                    group[i].build(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = inputs
        for i, dense in enumerate(self.dense_layers):
            x = dense(x)
            if self.activate_last or i < len(self.dense_layers) - 1:
                if self.batch_norm:
                    x = self.norms[i](x, training=training)
                x = self.activation(backend.unfused(x))
                if self.dropout:
                    x = self.dropouts[i](x, training=training)
        return x

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options.config(), "seed": self.seed}


class HeadedMLP(MLP):
    """Hidden layers, and a head in place of a last one: (B, n) → what the head makes of (B, units[-1]).

    Args:
        head: A layer, built here.
        units, …: Arguments of `MLP`.
    """

    def __init__(self, head: keras.layers.Layer, units: Sequence[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.head = head

    def build(self, input_shape: Sequence[int | None]) -> None:
        super().build(input_shape)
        self.head.build((None, self.units[-1]))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.head(super().call(inputs, training), training=training)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        shape: tuple[int | None, ...] = self.head.compute_output_shape((*input_shape[:-1], self.units[-1]))
        return shape


@keras.saving.register_keras_serializable("keras_dlrm")
class BottomMLP(MLP):
    """Dense features (B, n_dense) → one feature vector (B, D). Every layer is activated, also the last.

    Args:
        units: Width of each layer; the last is D and has to equal the embedding width for a dot interaction.
        activation: Activation after each layer, ReLU in the paper.
        dropout: Share of activations dropped after each layer, in [0, 1).
        batch_norm: Whether to normalize before each activation.
        kernel_l2: L2 factor of the kernels, or 0.
        seed: Seed of the initial weights and of dropout; a fresh one if omitted.

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

    Example:

    >>> BottomMLP([512, 256, 16])(np.ones((2, 13), "float32")).shape[-1]
    16
    """


@keras.saving.register_keras_serializable("keras_dlrm")
class TopMLP(MLP):
    """Interactions (B, n) → logits (B, units[-1]) in float32. The last layer is linear; models apply the sigmoid.

    Args:
        units: Width of each layer; the last is 1 for a click probability.
        activation: Activation of the hidden layers, ReLU in the paper.
        dropout: Share of activations dropped after each hidden layer, in [0, 1).
        batch_norm: Whether to normalize before each activation.
        kernel_l2: L2 factor of the kernels, or 0.
        seed: Seed of the initial weights and of dropout; a fresh one if omitted.

    Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".

    Example:

    >>> TopMLP([64, 1])(np.ones((2, 30), "float32")).shape[-1]
    1
    """

    activate_last = False

"""Encodings of dense features: each becomes a vector of its own, piecewise linear or periodic in its value."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.initializers import ReferenceProjection, new_seed, part_seed
from keras_dlrm.schema.columns import ENCODED_MISSING
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer, number


class DenseEncoding(keras.layers.Layer):
    """Base of the encodings: n features (B, n) → T numbers each → vectors (B, n, D), by a matrix for each feature.

    A subclass has `size`, that is T, and `basis`. A missing value, -2, has a vector of its own, if it `marks_missing`.

    Args:
        output_dim: Width D of the vectors.
        activation: Activation of the vectors.
        seed: Seed of the initial matrices; a fresh one if omitted.
    """

    size = 0
    marks_missing = True

    def __init__(self, output_dim: int, activation: Any = "relu", seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.output_dim = integer(type(self).__name__, "output_dim", output_dim)
        self.seed = new_seed(seed)

    def build(self, input_shape: Sequence[int | None]) -> None:
        n = input_shape[-1]
        if n is None:
            raise ValueError(f"{type(self).__name__}: the last dimension of the input {tuple(input_shape)} is unknown.")
        shape, matrices = (n, self.size, self.output_dim), ReferenceProjection([self.seed, 0])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=matrices)
        self.bias = self.add_weight(name="bias", shape=(n, self.output_dim), initializer="zeros")
        if self.marks_missing:
            self.missing = self.add_weight(name="missing", shape=(n, self.output_dim), initializer="zeros")
        self.built = True

    def basis(self, x: Any) -> Any:
        """Features (B, n, 1) → numbers (B, n, T)."""
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        x = ops.expand_dims(ops.cast(inputs, "float32"), 2)  # in which a value has its bin, whatever is computed with after it
        kernel, bias = (ops.cast(each, self.compute_dtype) for each in (self.kernel, self.bias))
        basis = ops.cast(self.basis(x), self.compute_dtype)
        products = ops.matmul(ops.transpose(basis, (1, 0, 2)), kernel)  # (n, B, D)
        vectors = self.activation(ops.transpose(products, (1, 0, 2)) + bias)
        if not self.marks_missing:
            return vectors
        return ops.where(x < ENCODED_MISSING + 0.5, ops.cast(self.missing, self.compute_dtype), vectors)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "output_dim": self.output_dim, "activation": activation, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_dlrm")
class PiecewiseLinearEncoding(DenseEncoding):
    """Each feature as how far it reaches into each of T bins of [-1, 1], and a matrix and a ReLU make a vector of that.

    Of features that went through the `quantile` transform these are quantile bins: the same number of training rows in each.

    Args:
        output_dim: Width D of the vectors.
        bins: Number of bins T.
        activation: Activation of the vectors; `None` makes each vector piecewise linear in the value.
        seed: Seed of the initial matrices; a fresh one if omitted.

    Input: (B, n), numbers in [-1, 1]; `-2` where a value is missing.
    Output: (B, n, D).

    Source: Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", section 3.2.

    Example:

    >>> tuple(PiecewiseLinearEncoding(4, bins=8)(np.array([[0.5, -1.0], [1.0, -2.0]], "float32")).shape)
    (2, 2, 4)
    """

    def __init__(
        self, output_dim: int, bins: int = 256, activation: Any = "relu", seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(output_dim, activation, seed, **kwargs)
        self.bins = self.size = integer("PiecewiseLinearEncoding", "bins", bins)

    def basis(self, x: Any) -> Any:
        starts = ops.convert_to_tensor(np.linspace(-1.0, 1.0, self.bins, endpoint=False, dtype=np.float32))
        return ops.clip((x - starts) * (self.bins / 2.0), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins}


@keras.saving.register_keras_serializable("keras_dlrm")
class PeriodicEncoding(DenseEncoding):
    """Each feature as sines and cosines of learned frequencies, and a matrix and a ReLU make a vector of these.

    Args:
        output_dim: Width D of the vectors.
        frequencies: Number of frequencies; T is twice that.
        scale: Standard deviation of the initial frequencies.
        activation: Activation of the vectors.
        seed: Seed of the initial frequencies and matrices; a fresh one if omitted.

    Input: (B, n), numbers about as large as 1; `-2` where a value is missing.
    Output: (B, n, D).

    Source: Gorishniy et al. 2022, section 3.3.

    Example:

    >>> tuple(PeriodicEncoding(4, frequencies=8)(np.array([[0.5, -1.0]], "float32")).shape)
    (1, 2, 4)
    """

    def __init__(
        self, output_dim: int, frequencies: int = 16, scale: float = 1.0, activation: Any = "relu", seed: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(output_dim, activation, seed, **kwargs)
        self.frequencies = integer("PeriodicEncoding", "frequencies", frequencies)
        self.scale = number("PeriodicEncoding", "scale", scale)
        self.size = 2 * self.frequencies

    def build(self, input_shape: Sequence[int | None]) -> None:
        super().build(input_shape)
        shape = (int(input_shape[-1] or 0), self.frequencies)
        normal = np.random.default_rng([self.seed, 1]).normal(0.0, self.scale, shape).astype(np.float32)  # on every backend
        # Not in bfloat16 under mixed precision: angles are large.
        options = {"initializer": lambda *_, **__: normal, "autocast": False}
        self.coefficients = self.add_weight(name="coefficients", shape=shape, **options)

    def basis(self, x: Any) -> Any:
        angles = 2.0 * np.pi * x * self.coefficients
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "frequencies": self.frequencies, "scale": self.scale}


@keras.saving.register_keras_serializable("keras_dlrm")
class LinearEncoding(DenseEncoding):
    """Each feature times a vector plus another one: the vector of a dense column in factorization machines.

    Args:
        output_dim: Width D of the vectors.
        activation: Activation of the vectors.
        seed: Seed of the initial vectors; a fresh one if omitted.

    Input: (B, n).
    Output: (B, n, D).

    Example:

    >>> tuple(LinearEncoding(4)(np.array([[0.5, -1.0]], "float32")).shape)
    (1, 2, 4)
    """

    size = 1
    marks_missing = False

    def __init__(self, output_dim: int, activation: Any = None, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(output_dim, activation, seed, **kwargs)

    def basis(self, x: Any) -> Any:
        return x


ENCODINGS = {"linear": LinearEncoding, "piecewise_linear": PiecewiseLinearEncoding, "periodic": PeriodicEncoding}


@keras.saving.register_keras_serializable("keras_dlrm")
class EncodedColumns(keras.layers.Layer):
    """Vectors of the dense columns whose schema asks for an encoding, in the order of the columns.

    Args:
        encodings: Encoding of each dense column by name, or `None` where a column has none.
        output_dim: Width D of the vectors.
        activation: Activation of the vectors.
        seed: Seed of the initial weights; a fresh one if omitted.

    Input: dense features (B, n).
    Output: (B, n', D) for the n' columns that have an encoding.

    Example:

    >>> tuple(EncodedColumns([None, "periodic"], 4)(np.zeros((2, 2), "float32")).shape)
    (2, 1, 4)
    """

    def __init__(
        self, encodings: Sequence[str | None], output_dim: int, activation: Any = "relu", seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.encodings, self.output_dim, self.seed = list(encodings), output_dim, new_seed(seed)
        self.activation = keras.activations.get(activation)
        self.count = sum(encoding is not None for encoding in self.encodings)
        self.groups: list[DenseEncoding] = []
        self.places = [
            [i for i, encoding in enumerate(self.encodings) if encoding == name] for name in ENCODINGS if name in self.encodings
        ]
        for places in self.places:
            name = str(self.encodings[places[0]])
            seed = part_seed(self.seed, len(self.groups))
            options: dict[str, Any] = {"activation": activation, "seed": seed, "dtype": self.dtype_policy, "name": name}
            self.groups.append(ENCODINGS[name](output_dim, **options))

    def build(self, input_shape: Sequence[int | None]) -> None:
        for places, layer in zip(self.places, self.groups, strict=True):
            layer.build((None, len(places)))
        self.built = True

    def call(self, inputs: Any) -> Any:
        vectors = [
            layer(backend.take_columns(inputs, np.array(places, np.int32)))
            for places, layer in zip(self.places, self.groups, strict=True)
        ]
        if len(vectors) == 1:
            return vectors[0]
        order = np.argsort(np.concatenate(self.places), kind="stable").astype(np.int32)
        return ops.take(ops.concatenate(vectors, axis=1), order, axis=1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.count, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        own = {"encodings": self.encodings, "output_dim": self.output_dim, "seed": self.seed}
        return {**super().get_config(), **own, "activation": keras.activations.serialize(self.activation)}


def encoded_columns(
    schema: Schema, output_dim: int, seed: int, dtype: Any, activation: Any = "relu"
) -> EncodedColumns | None:
    """The layer for the encoded columns of a schema, built; `None` where there is none. `seed` is the model's."""
    encodings = [column.encoding for column in schema.dense]
    if not any(encodings):
        return None
    layer = EncodedColumns(encodings, output_dim, activation, part_seed(seed, 5), dtype=dtype, name="encoded")
    layer.build((None, schema.n_dense))
    return layer

"""Calls of layers and models, inputs and gradients, on this backend: on JAX compiled as a whole, not operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

# The quicker way to run a step once: JAX compiles each operation of an eager one.
EAGER = keras.backend.backend() != "jax"


def called(layer: Callable[..., Any], *inputs: Any) -> Any:
    """Output of a layer or a model, without training."""
    if keras.backend.backend() != "jax":
        return layer(*inputs)
    import jax

    return jax.jit(lambda *values: layer(*values))(*inputs)


def gradients(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Gradients of a scalar function of tensors, for each of its float32 arguments; zeros where it does not depend on one."""
    if keras.backend.backend() == "jax":
        import jax

        return [np.asarray(g) for g in jax.jit(jax.grad(function, tuple(range(len(arrays)))))(*arrays)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = function(*tensors)
        return [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(result, tensors, unconnected_gradients="zero")]
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    result = function(*tensors)
    if not result.requires_grad:
        return [np.zeros_like(array) for array in arrays]
    results = torch.autograd.grad(result, tensors, allow_unused=True)
    return [np.zeros_like(a) if g is None else g.numpy() for a, g in zip(arrays, results, strict=True)]


# Fields, their width, and numbers a row of what is given to layers.
F, D, N = 4, 3, 6


def inputs(shapes: Sequence[Any], batch: int, seed: int = 0) -> list[np.ndarray]:
    """Random inputs of a layer, by their shapes without the batch; ids where the last entry of a shape is "int32"."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(-2, 12, (batch, shape[0])).astype(shape[1]) if shape[-1] == "int32"
        else rng.normal(size=(batch, *shape)).astype("float32")
        for shape in shapes
    ]  # fmt: skip


def numpy(tensor: Any) -> np.ndarray:
    """A tensor as an array of float32."""
    return keras.ops.convert_to_numpy(tensor).astype("float32")

"""Calls of layers and models, and gradients, on the backend that runs: on JAX compiled as a whole, not operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


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

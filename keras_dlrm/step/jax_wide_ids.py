"""Ids of 64 bits on JAX, on their way from data to the hooks before a step."""

from collections.abc import Iterator
from typing import Any

import jax
import keras
import numpy as np

from keras_dlrm.backend.private_keras import WrappedAdapter


@jax.tree_util.register_pytree_node_class
class WideIds:
    """int64 ids in two halves: JAX, which may move a batch before the hooks see it, would cut each id in half.

    Args:
        halves: int32, last axis 2 times as long as that of the ids.
    """

    def __init__(self, halves: Any) -> None:
        self._halves = halves

    @classmethod
    def of(cls, array: Any) -> Any:
        """Wide NumPy ids (B, W) in this form; anything else as it is."""
        if not isinstance(array, np.ndarray) or array.dtype not in (np.int64, np.uint64) or array.ndim != 2:
            return array
        return cls(np.ascontiguousarray(array).view(np.int32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the ids."""
        return (*self._halves.shape[:-1], self._halves.shape[-1] // 2)

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of what the step gets for them."""
        return np.dtype(np.int32)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.ascontiguousarray(self._halves).view(np.int64).astype(dtype or np.int64)

    def tree_flatten(self) -> tuple[Any, None]:
        """The halves, and nothing that is static."""
        return (self._halves,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Any:
        """Inverse of `tree_flatten`."""
        return cls(*children)


def wide(x: Any) -> Any:
    """Inputs with their wide ids in halves."""
    return keras.tree.map_structure(WideIds.of, x)


class WideBatches(WrappedAdapter):
    """Keras's adapter of some data, with wide ids in halves."""

    def get_jax_iterator(self) -> Iterator[Any]:
        for batch in self.whole.get_jax_iterator():
            yield (wide(batch[0]), *batch[1:]) if isinstance(batch, tuple) else wide(batch)

"""The seam: gather, sum and scatter rows, one file for each framework.

Each adapter has the same functions, but for those that are plain where its framework needs nothing special (`_PLAIN`):

- `unique(ids, beyond)` → `(unique_ids, inverse)` of a flat id tensor. The first id, where it is also the smallest, stays
  the first. JAX fills `unique_ids` up with `beyond`, a number that is not a row, to a static size.
- `take(variable, ids)` → the rows of a variable for ids of any shape, with a gradient to the variable.
- `gather(variable, ids)` → the rows of a variable as plain tensors, without a gradient to the variable.
- `scatter(variable, ids, rows)` writes rows; ids do not repeat, but for those beyond the table, which are left out.
- `read(variable, start, stop)` → a float32 NumPy copy of the rows [start, stop); `write(variable, start, rows)` replaces rows from
  `start` on by float32 NumPy ones. Neither needs memory for more than those rows. On TensorFlow `copy` is which of a strategy's
  copies in this process; all are written where it is not given.
- `read_rows(variable, ids)` → a float32 NumPy copy of rows (n, …), for NumPy int32 ids (n,). Between steps, not in them.
- `write_rows(variable, ids, rows)` replaces such rows by float32 NumPy ones, in place. Likewise between steps.
- `replicas()` → the tf.distribute strategy in whose scope this is, if it has replicas that each call the model; else `None`.
- `is_concrete(x)` → whether an array or tensor has values now: not in a graph, nor where Keras asks for shapes.
- `can_write()` → whether variables have values to write to now: not while Keras traces a model to build it.
- `memory(variable)` → (address, bytes) of the memory that a variable's value is in, or `None` where that is not one place in
  this machine's memory. To be asked before the variable's first gather or scatter.
- `within(ids, values, rows)` → ids below `rows`, and their values; JAX leaves the others in, for `scatter` to leave out.
- `constant(tensor)` → the tensor, without its gradient.
- `expand(rows, index)` → rows (n, D) in the order of an index of any shape; its gradient sums those of repeated rows.
- `sum_by(values, index, count)` → values (n, D) with equal index summed into (count, D).
- `take_columns(matrix, columns)` → (B, n) columns of a matrix (B, m), for a constant NumPy int32 (n,).
- `unfused(tensor)` → the tensor; what follows is not fused with what made it. TensorFlow's product that is fused with a ReLU
  makes 0 of NaN.
- `with_width(tensor, width)` → the tensor; where TensorFlow does not know its shape beforehand it is (B, width) from here on, or
  an error when it is there.
- `precise_sum(high, low)` → the sum of two float32 scalars in float64; on JAX while Keras traces, in float32.
- `densify(gradient)` → a plain tensor, with repeated rows summed.
- `top_k(scores, k)` → the k largest of each row (B, n) in falling order, k ≤ n, and their places. Of equal ones
  the first come first, but for -infinity.
- `products(a, b)` → the products (n, m) of all rows of matrices (n, D) and (m, D), without a copy of either.
- `project(x, kernel)` → x (…, n) times a kernel (n, m), in x's dtype.
- `on_tpu()` → whether layers that are made now run on a TPU.

and the flags `UNDER_XLA`: whether `unique` and `scatter` are right in a step that is compiled with `jit_compile=True`;
`REPEATS_ARE_WRONG`: whether stock Keras optimizers go wrong where a gradient names a row more than once.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

BACKENDS = ("tensorflow", "jax", "torch")


def _top_k(scores: Any, k: int) -> Any:
    from keras import ops

    return ops.top_k(scores, k)


def _products(a: Any, b: Any) -> Any:
    from keras import ops

    return ops.einsum("nd,md->nm", a, b)


def _project(x: Any, kernel: Any) -> Any:
    from keras import ops

    return ops.matmul(x, kernel)


_PLAIN: dict[str, Any] = {
    "UNDER_XLA": True, "REPEATS_ARE_WRONG": False, "replicas": lambda: None, "on_tpu": lambda: False,
    "unfused": lambda tensor: tensor, "densify": lambda gradient: gradient, "with_width": lambda tensor, width: tensor,
    "top_k": _top_k, "products": _products, "project": _project,
}  # fmt: skip


@functools.cache
def _adapter() -> ModuleType:
    # Not at import: who needs a private name alone, as the server does, needs no adapter.
    import keras

    if keras.backend.backend() not in BACKENDS:
        raise ImportError(
            f"keras_dlrm runs on the Keras backends tensorflow, jax and torch, not on {keras.backend.backend()!r}; "
            "set KERAS_BACKEND."
        )
    return importlib.import_module(f"{__name__}.{keras.backend.backend()}_rows")


def __getattr__(name: str) -> Any:
    return getattr(_adapter(), name, _PLAIN[name]) if name in _PLAIN else getattr(_adapter(), name)

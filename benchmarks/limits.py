"""Limits of this machine, as this Keras backend reaches them: bytes moved and operations of matrix products.

    KERAS_BACKEND=jax python benchmarks/limits.py --dtype bfloat16

Prints one JSON object. The rest of this file is how benchmarks run a function in a backend's compiled form.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch


def compiled(function: Callable[..., Any], variables: Sequence[Any] = ()) -> Callable[..., Any]:
    """`function(*tensors)` in the form in which Keras runs a training step; each call waits for its result.

    `tf.function` on TensorFlow, `jax.jit` with donated state on JAX, eager torch without a gradient.

    Args:
        function: Tensors, or nests of them, → tensors, or nests of them.
        variables: The Keras variables that it reads or assigns.
    """
    if BACKEND == "tensorflow":
        graph = tf.function(function, reduce_retracing=True)

        def run(*arguments: Any) -> Any:
            return wait(graph(*arguments))

    elif BACKEND == "jax":

        def stateless(values: Sequence[Any], arguments: Any) -> Any:
            with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
                out = function(*arguments)
            return out, [scope.get_current_value(v) for v in variables]

        jitted = jax.jit(stateless, donate_argnums=0)

        def run(*arguments: Any) -> Any:
            out, values = wait(jitted([v.value for v in variables], arguments))
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return out

    else:

        def run(*arguments: Any) -> Any:
            with torch.no_grad():
                return wait(function(*arguments))

    return run


def wait(result: Any) -> Any:
    """`result`, when it has been computed."""
    if BACKEND == "tensorflow":
        tf.test.experimental.sync_devices()
    elif BACKEND == "jax":
        jax.block_until_ready(result)
    elif torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def accelerator() -> tuple[str, int] | None:
    """Name of the GPU that this backend computes on, and bytes of it that a process may take (0: unknown), or `None`."""
    if BACKEND == "tensorflow":
        found = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details(found[0]) if found else {}
        return (details.get("device_name", "GPU"), 0) if found else None
    if BACKEND == "jax":
        device = jax.devices()[0]
        memory = (device.memory_stats() or {}).get("bytes_limit", 0)
        return None if device.platform == "cpu" else (device.device_kind, memory)
    return (torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """Durations of calls after two that are not counted."""
    found = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found[2:]


def bandwidth(megabytes: int = 512, repeats: int = 10) -> float:
    """Bytes per second of a + b in float32 (STREAM's “add”), two vectors read and one written; the best of all repeats.

    On a processor NumPy threads, one a core, write into `a`: a backend would take fresh memory for the result, and what
    that costs is no limit of the machine. On an accelerator the backend computes it.

    Args:
        megabytes: Size of one vector; to be several times the last cache.
        repeats: Timed calls.
    """
    count = megabytes * 250_000
    if accelerator():
        a, b = ops.ones((count,), "float32"), ops.ones((count,), "float32")
        add = compiled(lambda a, b: a + b)
        return 12 * count / min(seconds(lambda: add(a, b), repeats))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    a_parts, b_parts = (np.array_split(np.ones(count, np.float32), cores) for _ in range(2))
    with ThreadPoolExecutor(cores) as pool:
        return 12 * count / min(seconds(lambda: list(pool.map(np.add, a_parts, b_parts, a_parts)), repeats))


def product_rate(dtype: str, size: int = 0, repeats: int = 10) -> float:
    """Operations per second of a product of two square matrices, 2 n³ of them; the best of all repeats.

    Args:
        dtype: `"float32"` or `"bfloat16"`.
        size: n; 8192 on an accelerator and 2048 elsewhere if 0.
        repeats: Timed calls.
    """
    size = size or (8192 if accelerator() else 2048)
    a, b = (ops.cast(np.random.default_rng(i).random((size, size), np.float32), dtype) for i in range(2))
    multiply = compiled(ops.matmul)
    return 2 * size**3 / min(seconds(lambda: multiply(a, b), repeats))


@click.command()
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--only-device", is_flag=True, help="Measure nothing.")
def main(dtype: str, only_device: bool) -> None:
    """Print the device and its limits."""
    name, memory = accelerator() or (None, 0)
    found: dict[str, Any] = {"gpu": name, "memory": memory}
    if not only_device:
        found |= {"bytes/s": bandwidth(), "FLOP/s": product_rate(dtype)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

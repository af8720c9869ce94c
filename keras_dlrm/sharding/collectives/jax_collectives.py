"""Collectives of JAX between the devices of all processes.

A step runs under `jax.shard_map`: what is written down is what one device does with its part of the batch and of the tables.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import PartitionSpec

from keras_dlrm.backend.private_keras import in_stateless_scope, in_symbolic_scope, put_value, shapes_of_parts
from keras_dlrm.sharding.launch import is_task
from keras_dlrm.sharding.meter import meter
from keras_dlrm.support.scoped import Scoped

AXIS = "batch"
CUTS_ROWS = False
_divided, _in_step = Scoped(False), Scoped(False)


class _Hybrid(keras.distribution.DataParallel):  # type: ignore[misc]
    """Batches and the rows of sharded tables are divided among the devices; everything else is on all of them."""

    def get_variable_layout(self, variable: Any) -> Any:
        if _divided.value:  # `add_weight` takes no layout
            return keras.distribution.TensorLayout([AXIS, *[None] * (len(variable.shape) - 1)], self.device_mesh)
        return super().get_variable_layout(variable)


def start(timeout: float = 300.0) -> None:
    """Join the processes of a launcher, if there is one, and have Keras put a part of each batch on each device.

    A launcher that JAX knows (SLURM, Open MPI, a TPU pod), or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    """
    # It would catch SIGTERM and do nothing; `kd.checkpoint.Checkpoints` has its own way.
    jax.config.update("jax_enable_preemption_service", False)
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not jax.distributed.is_initialized() and (address is not None or is_task()):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        names = () if address is None else ("num_processes", "process_id")
        numbers: dict[str, Any] = {name: int(os.environ[f"JAX_{name.upper()}"]) for name in names}
        jax.distributed.initialize(address, initialization_timeout=int(timeout), **numbers)
    if jax.device_count() > 1 and keras.distribution.distribution() is None:
        devices = [f"{device.platform}:{device.id}" for device in jax.devices()]
        mesh = keras.distribution.DeviceMesh((len(devices),), [AXIS], devices)
        # Each process is given its own part of each batch.
        keras.distribution.set_distribution(_Hybrid(mesh, auto_shard_dataset=False))


def stop() -> None:
    if keras.distribution.distribution() is not None:
        keras.distribution.set_distribution(None)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _mesh() -> Any:
    distribution = keras.distribution.distribution()
    return None if distribution is None else distribution.device_mesh.backend_mesh


def world_size() -> int:
    mesh = _mesh()
    return 1 if mesh is None else int(mesh.devices.size)


def process_rank() -> int:
    return int(jax.process_index())


def process_count() -> int:
    return int(jax.process_count())


# -- inside a step -----------------------------------------------------------------------------------------------------


def _is_real() -> bool:
    """Whether a collective is meant: not where Keras only asks for shapes, as it does before a model is built."""
    if world_size() == 1:
        return False
    if _in_step.value:
        return True
    if in_stateless_scope() or in_symbolic_scope():
        return False
    raise RuntimeError(
        "a model whose tables are sharded over devices was called as a function; use fit, evaluate, predict or predict_on_batch."
    )


def rank() -> Any:
    return jax.lax.axis_index(AXIS) if _is_real() else 0


def _exchanged(x: Any) -> Any:
    n = world_size()
    meter.sent(x.nbytes // n * (n - 1))
    return jax.lax.all_to_all(x, AXIS, 0, 0, tiled=True)


# JAX would take the same way back, but nothing would count it.
_exchange = jax.custom_vjp(_exchanged)
_exchange.defvjp(lambda x: (_exchanged(x), None), lambda _, gradient: (_exchanged(gradient),))


def exchange(x: Any) -> Any:
    return _exchange(x) if _is_real() else x


def all_sum(tensors: Sequence[Any]) -> list[Any]:
    if not tensors or not _is_real():
        return list(tensors)
    n = world_size()
    meter.sent(2 * (n - 1) * -(-sum(t.size for t in tensors) // n) * 4)
    flat = jax.lax.psum(jnp.concatenate([jnp.reshape(t, -1) for t in tensors]), AXIS)
    parts = jnp.split(flat, np.cumsum([t.size for t in tensors])[:-1])
    return [jnp.reshape(part, t.shape) for part, t in zip(parts, tensors, strict=True)]


def gather(x: Any) -> Any:
    if not _is_real():
        return jnp.concatenate([x] * world_size())
    meter.sent((world_size() - 1) * x.nbytes)
    return jax.lax.all_gather(x, AXIS, tiled=True)


def real_rows(x: Any, real: Any) -> Any:
    return x


def _spec(variable: Any) -> PartitionSpec:
    return PartitionSpec(AXIS) if getattr(variable, "sharded", False) else PartitionSpec()


def on_each_device(function: Any, state: Sequence[Sequence[Any]], rows: bool) -> Any:
    """A step of all devices, `(state, data) → (result, state)`, from one of a single device.

    `state` has the Keras variables of each of its parts. With `rows` the result has a row for each row of the batch;
    else it is the same on all devices.
    """
    if _mesh() is None:
        return function
    sharded = {id(v): v for part in state for v in part if getattr(v, "sharded", False)}
    specs = tuple([_spec(v) for v in part] for part in state)

    def step(values: Any, data: Any) -> Any:
        with _in_step.using(True), shapes_of_parts(list(sharded.values()), world_size()):
            return function(values, data)

    result = PartitionSpec(AXIS) if rows else PartitionSpec()
    in_specs = (specs, PartitionSpec(AXIS))
    return jax.shard_map(step, mesh=_mesh(), in_specs=in_specs, out_specs=(result, specs), check_vma=False)


def rows_here(array: Any) -> np.ndarray:
    """The rows of this process, of an array whose rows are divided among the devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


# -- variables ---------------------------------------------------------------------------------------------------------


def add_table(add: Any, name: str, shape: tuple[int, int], replicated: bool) -> Any:
    with _divided.using(not replicated and world_size() > 1):
        return add(name, (shape[0] * (1 if replicated else world_size()), shape[1]))


def holds(owner: int, variable: Any) -> bool:
    mesh = _mesh()
    return mesh is None or mesh.devices.flat[owner].process_index == jax.process_index()


def read(variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
    if owner is None or _mesh() is None:
        part = variable.value.addressable_data(0)
    else:
        device = _mesh().devices.flat[owner]
        part = next(shard.data for shard in variable.value.addressable_shards if shard.device == device)
    return np.asarray(part[start:stop].astype(jnp.float32))


@functools.partial(jax.jit, donate_argnums=0)
def _replaced(array: Any, rows: Any, start: Any) -> Any:
    return jax.lax.dynamic_update_slice(array, rows.astype(array.dtype), (start, *[0] * (array.ndim - 1)))


def write(variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
    whole = variable.value
    if owner is None or _mesh() is None:
        values = np.array(whole.addressable_data(0))
        values[start : start + len(rows)] = rows
        variable.assign(values)
        return
    device = _mesh().devices.flat[owner]
    arrays = [shard.data for shard in whole.addressable_shards]
    for i, array in enumerate(arrays):
        if array.devices() == {device}:
            arrays[i] = _replaced(array, jax.device_put(rows, device), start)
    put_value(variable, jax.make_array_from_single_device_arrays(whole.shape, whole.sharding, arrays))


def all_words(words: np.ndarray) -> np.ndarray:
    if jax.process_count() == 1:
        return words[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(words))

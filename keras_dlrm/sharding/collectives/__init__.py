"""Collectives (all-to-all, all-gather, all-reduce), one file for each framework.

- `start(timeout)` joins the processes that a launcher started, ends with it, gives signs of life, and runs as SCHED_BATCH; `stop()`
  leaves them.
- `world_size()`, `rank()`: N and this process's place among them; on JAX devices count, not processes, and so do replicas inside a
  scope of tf.distribute. `process_count()` and `process_rank()` count processes on all backends.
- `exchange(x)`: x[r] goes to rank r, and row s of the result is what rank s sent. Its gradient takes the way back.
- `all_sum(tensors)` → their sums over all ranks. `gather(x)` → every rank's x, one below the other.
- `all_words(words)`: outside of steps, an int32 array of every process, (processes, n).
- `add_table(add, name, shape, replicated)` → what `add(name, shape)` makes: the variable of this process's rows (on JAX of all
  devices' rows; in a scope of tf.distribute a copy for each replica, which then gets rows of its own).
- `check_call(n)`: raises where a model over n ranks is called as a function, outside of its steps. On JAX the
  collectives see to it themselves; on torch every process may call the model, if all do.
- `real_rows(x, real)`: the rows of x where `real` is true; `CUTS_ROWS`: whether that is possible. On JAX it is not: all rows stay.
- `holds(owner, variable)`: whether a rank's rows of a variable are in this process. `read(variable, owner, start, stop)` and
  `write(variable, owner, start, rows)`: rows of that rank, counted from its first; of a copy where `owner` is `None`.
"""

import importlib
import os
import random
import sys
from typing import Any

import keras
import numpy as np

from keras_dlrm.sharding.heartbeat import beats
from keras_dlrm.sharding.launch import is_member, is_task, take_turns
from keras_dlrm.sharding.processes import end_with_launcher
from keras_dlrm.sharding.watch import PROCESS

_adapter = importlib.import_module(f"{__name__}.{keras.backend.backend()}_collectives")
# Where an adapter has no function of its own.
_PLAIN = {"add_table": lambda add, name, shape, replicated: add(name, shape), "check_call": lambda n: None}


def start(timeout: float = 300.0) -> None:
    """Join the processes that a launcher started; nothing where this one is alone.

    Python's generator of random numbers then resumes from the same state in all of them: where no seed is given, initial weights
    are drawn from it, which must be the same.

    Args:
        timeout: Seconds that a process waits for the others, here and in each exchange.

    Raises:
        ValueError: `srun` or `mpirun` started several processes that the backend cannot join.
    """
    end_with_launcher()
    beats.begin()
    if is_member():
        take_turns()
    _adapter.start(timeout)
    if is_task() and PROCESS not in os.environ and _adapter.process_count() == 1:
        needed = {"torch": "RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT", "tensorflow": "TF_CONFIG"}
        raise ValueError(
            "start: srun or mpirun started several processes, but each would train alone; give each "
            f"{needed.get(keras.backend.backend(), 'JAX_COORDINATOR_ADDRESS')}, as trainers/cluster does."
        )
    if _adapter.process_count() > 1:
        bits = np.array([random.getrandbits(31)], np.int32)
        random.seed(int(_adapter.all_words(bits)[0, 0]))


def stop() -> None:
    """Leave the others, which may fail because of it: where an exception is on its way out of this process, that comes first."""
    error = sys.exc_info()[1]
    if error is not None:
        beats.fail(error, ends=False)
    _adapter.stop()


def __getattr__(name: str) -> Any:
    return getattr(_adapter, name, _PLAIN[name]) if name in _PLAIN else getattr(_adapter, name)

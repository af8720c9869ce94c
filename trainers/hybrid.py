"""Training, resume and report that the trainers of sharded models share."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.files.durable import check_writable
from keras_dlrm.schema.schema import Schema
from trainers.options import sharded_options
from trainers.planted import ClickLog, Steps, click_schema

_ROWS_AT_ONCE = 2**16


@keras.saving.register_keras_serializable("keras_dlrm")
class StepLoss(keras.metrics.Metric):
    """Log loss of the last batch alone. Keras's own `loss` is the mean over the epoch so far.

    Example:

    >>> metric = StepLoss()
    >>> metric.update_state([1.0], [0.5]); metric.update_state([1.0], [0.25]); round(float(metric.result()), 4)
    1.3863
    """

    def __init__(self, name: str = "step_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.last = self.add_variable(shape=(), initializer="zeros", name="last")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch.

        Args:
            y_true: Labels.
            y_pred: Probabilities.
            sample_weight: Or `None`.
        """
        y, p = (ops.cast(ops.reshape(ops.convert_to_tensor(v), (-1,)), "float32") for v in (y_true, y_pred))
        p = ops.clip(p, 1e-7, 1 - 1e-7)
        losses = -(y * ops.log(p) + (1 - y) * ops.log(1 - p))
        weight = ops.ones_like(p) if sample_weight is None else ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        self.last.assign(ops.sum(losses * weight) / ops.sum(weight))

    def result(self) -> Any:
        """The loss."""
        return ops.convert_to_tensor(self.last)


class Recorder(keras.callbacks.Callback):
    """Keeps each step's loss, the bytes it moved, and the time.

    Args:
        losses: Of steps before.
    """

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        from keras_dlrm.sharding.meter import meter

        self.losses = list(losses)
        self._meter = meter
        self._times: list[float] = []
        self._bytes = [meter.total]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["step_loss"]))
        self._times.append(time.perf_counter())
        self._bytes.append(self._meter.total)

    @property
    def bytes_per_step(self) -> float:
        """Bytes that a step moved. On JAX only the first one of a kind is counted, as it is compiled."""
        moved = np.diff(self._bytes)
        return float(np.median(moved[moved > 0])) if moved.any() else 0.0

    @property
    def steps_per_second(self) -> float:
        """Without the first step, which is compiled; 0 of fewer than two."""
        return 0.0 if len(self._times) < 2 else (len(self._times) - 1) / (self._times[-1] - self._times[0])


hybrid_options = sharded_options(
    processes="On this machine; a cluster's launcher decides itself.",
    plan="A sharding plan (keras-dlrm plan --output).  [default: planned]",
    optimizer="Of the dense parameters and the tables.",
    restarts="Of all processes after one is lost, with --checkpoint.",
    timeout="Seconds without progress that end the run.",
)


def moments(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    """Sum and sum of squares of a table, from its parts."""
    total = squares = 0.0
    for part in parts:
        total, squares = total + float(part.sum(dtype="f8")), squares + float((part.astype("f8") ** 2).sum())
    return total, squares


def describe_tables(model: Any) -> dict[str, dict[str, float]]:
    """Rows, width, sum and sum of squares of each logical table, added up where its parts are. All processes must ask.

    Args:
        model: A model of this package.
    """
    from keras_dlrm.sharding import everyone

    tables = model.embeddings.sharded
    own = dict.fromkeys(model.embeddings.table_shapes, (0.0, 0.0))
    first = tables is None or tables.collectives.process_rank() == 0
    for name in own:
        if tables is None:
            parts: Iterable[np.ndarray] = [model.embeddings.embedding_tables()[name]]
        else:
            parts = (
                tables.collectives.read(variable, shard.rank, start + i, start + min(i + _ROWS_AT_ONCE, shard.rows))
                for shard, variable, start in tables.parts(name)
                if shard.rank is not None or first
                for i in range(0, shard.rows, _ROWS_AT_ONCE)
            )
        own[name] = moments(parts)
    every = everyone.values(list(own.values()))
    shapes = model.embeddings.table_shapes
    return {
        name: {"rows": shapes[name][0], "width": shapes[name][1], "sum": sum(one[i][0] for one in every),
               "sumsq": sum(one[i][1] for one in every)}
        for i, name in enumerate(own)
    }  # fmt: skip


def planned(plan_file: Path | None, schema: Schema, embedding_dim: int, world_size: int, options: Mapping[str, Any]) -> Any:
    """The plan of a file, fitted to this schema and these processes; else a plan by prediction, of equal shares.

    Args:
        plan_file: As `ShardingPlan.save` writes it, or with the kinds alone; or `None`.
        schema: The schema.
        embedding_dim: Width of all tables.
        world_size: Number of processes (on JAX: of devices).
        options: `global_batch` and `optimizer`, for a prediction.
    """
    from keras_dlrm.sharding.plan import ShardingPlan
    from keras_dlrm.sharding.planner.planner import plan

    if plan_file is None:
        return plan(schema, world_size, embedding_dim, machine="loopback", even_memory=True, **options)
    shapes = {name: (rows, embedding_dim) for name, rows in schema.table_sizes.items()}
    return ShardingPlan.load(plan_file, shapes, world_size)


def train(
    model: Any, log: Any, steps: int, global_batch: int, checkpoint: Path | None, checkpoint_steps: int
) -> Recorder:
    """Train up to a step of a log, from the last checkpoint on. All processes must call it.

    Args:
        model: A compiled model.
        log: A log with `batch(number, batch_size)`.
        steps: Training steps in all.
        global_batch: Examples of a step, of all processes together.
        checkpoint: Folder of checkpoints, or `None`.
        checkpoint_steps: Steps between two.

    Raises:
        ValueError: the checkpoint is of another model, or of a run with other batches.
    """
    from keras_dlrm.checkpoint import Checkpoints, restore
    from keras_dlrm.sharding.heartbeat import Heartbeat
    from keras_dlrm.sharding.part import Part

    first, losses = 0, []
    # What decides a step's batch.
    told = {"global_batch": global_batch, "seed": getattr(log, "seed", None)}
    model.predict_on_batch(Part(Steps(log, global_batch, 0, 1))[0][0])  # builds it
    if checkpoint is not None:
        check_writable(checkpoint)
        compiled_rate = model.optimizer.rate
        saved = restore(model, checkpoint)
        rate = model.optimizer.rate
        if saved is not None and rate != compiled_rate:
            raise ValueError(
                f"--learning-rate {compiled_rate:g}: the run in {checkpoint} has {rate:g}; give that, or --checkpoint "
                "another folder."
            )
        if saved is not None:
            first, losses = saved["step"], saved["extra"]["losses"]
            if first > steps:
                raise ValueError(
                    f"--steps {steps}: the checkpoint in {checkpoint} is of step {first}; ask for at least as many, or take "
                    "another --checkpoint."
                )
            for name, value in told.items():
                before = saved["extra"].get(name, value)
                if before != value:
                    raise ValueError(
                        f"--{name.replace('_', '-')} {value}: the run in {checkpoint} has {before}; give that, or --checkpoint "
                        "another folder."
                    )
    recorder = Recorder(losses)
    callbacks = [recorder, Heartbeat(first)]
    if checkpoint is not None:
        callbacks.append(Checkpoints(checkpoint, checkpoint_steps, first, lambda: {**told, "losses": recorder.losses}))
    if first < steps:
        model.fit(Part(Steps(log, global_batch, first, steps)), shuffle=False, callbacks=callbacks, verbose=0)
    return recorder


def run(
    backend: str, *, processes: int, steps: int, global_batch: int, seed: int, rows: int, embedding_dim: int,
    plan_file: Path | None, optimizer: str, learning_rate: float | None, checkpoint: Path | None, checkpoint_steps: int,
    timeout: float, restarts: int, as_json: bool,
) -> None:  # fmt: skip
    """Train a sharded DLRM and report; where no launcher started this process, start all of them instead and end.

    Args:
        backend: Keras's, which `KERAS_BACKEND` names, too.
        processes, steps, global_batch, seed, rows, embedding_dim, plan_file, optimizer, learning_rate, checkpoint,
            checkpoint_steps, timeout, restarts, as_json: As `hybrid_options` gives them.
    """
    from keras_dlrm.sharding.launch import is_member, launch

    if not is_member():
        sys.exit(launch(backend, processes, restarts if checkpoint else 0, timeout))

    import keras_dlrm as kd
    from keras_dlrm.sharding import collectives

    schema = click_schema(rows)
    try:
        kd.sharding.start(2 * timeout)  # the launcher, which knows who hangs, comes first
        options = {"global_batch": global_batch, "optimizer": optimizer}
        with kd.sharding.use(planned(plan_file, schema, embedding_dim, collectives.world_size(), options)):
            model = kd.models.DLRM(schema, embedding_dim, bottom_mlp=[32, embedding_dim], top_mlp=[64, 32, 1], seed=seed)
        model.compile(optimizer, metrics=[StepLoss()])
        if learning_rate is not None:
            model.optimizer.learning_rate = learning_rate
        recorder = train(model, ClickLog(rows, seed), steps, global_batch, checkpoint, checkpoint_steps)
    except (ValueError, OSError) as error:
        fail(error)
    report(model, recorder, global_batch, as_json)
    kd.sharding.stop()


def report(model: Any, recorder: Recorder, global_batch: int, as_json: bool) -> None:
    """Print what a run found, once. All processes must call it.

    Args:
        model: The trained model.
        recorder: The run's.
        global_batch: Examples of a step.
        as_json: As one JSON object; else as a line for people.
    """
    from keras_dlrm.sharding import collectives as backend
    from keras_dlrm.sharding import everyone

    tables = describe_tables(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    every = everyone.values([recorder.bytes_per_step, peak])
    if backend.process_rank():
        return
    sent, peaks = [bytes_sent for bytes_sent, _ in every], [peak for _, peak in every]
    result = {
        "losses": recorder.losses,
        "bytes_per_step": sent,
        "peak_rss_bytes": peaks,
        "samples_per_s": recorder.steps_per_second * global_batch,
        "tables": tables,
    }
    if as_json:
        print(json.dumps(result), flush=True)
        return
    losses = recorder.losses[-10:]
    print(
        f"{len(recorder.losses)} steps, {len(every)} processes, loss {np.mean(losses) if losses else float('nan'):.4f}, "
        f"{result['samples_per_s']:,.0f} samples/s, {max(sent):,.0f} bytes sent a step and process, "
        f"{max(peaks) / 2**20:,.0f} MiB at the peak",
        flush=True,
    )


def fail(error: Exception) -> None:
    """End with exit code 2 and one sentence: bad input, which no restart mends."""
    from keras_dlrm.sharding.heartbeat import beats

    beats.fail(error, code=2)
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)

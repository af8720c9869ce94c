"""Training on parameter servers from the chief's side."""

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.writing import write
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.embeddings.whole_tables import stand_in_tables
from keras_dlrm.files.durable import check_writable
from keras_dlrm.metrics.scores import scores
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.labels import Checks
from keras_dlrm.parameter_server.cluster import task
from keras_dlrm.parameter_server.placement import default_plan, for_servers
from keras_dlrm.parameter_server.server import Server, peak_memory
from keras_dlrm.parameter_server.step import WorkerStep, check, check_is_on
from keras_dlrm.parameter_server.tables import ServerTables
from keras_dlrm.sharding.heartbeat import beats
from keras_dlrm.sharding.plan import ShardingPlan
from keras_dlrm.sharding.processes import end_with_launcher
from keras_dlrm.support.arguments import integer

Batch = tuple[Mapping[str, Any], Any]
_LOST = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.InternalError)
_TRIES = 10


class ServerLostError(RuntimeError):
    """A parameter server is gone, and with it a part of the model: start all processes again, from the last checkpoint."""


class ParameterServerTraining:
    """A model whose tables, slots and dense parameters are on parameter servers, and its training.

    Made by the chief of a cluster (`TF_CONFIG`), once. `build` is called for this model, and by `model` for a whole one.

    Args:
        build: Makes and compiles a model of `kd.models`, its optimizers included, always the same one (give it a seed).
        steps: Training steps in all.
        plan: Where the tables' parts are, its ranks being servers, see `for_servers`; large tables by rows by default.
        checkpoint: Folder of checkpoints. If there is one, training resumes from it.

    Attributes:
        workers: Number of workers.
        done: Steps that are done.
        resumed: Of those, the ones from a checkpoint.
        evaluations: Scores by step, of the evaluations of `fit`.

    Raises:
        ValueError: this is not the chief; the model or its optimizers cannot be trained so.
        ServerLostError: a server cannot be reached, here and in all methods.

    Example: see docs/parameter-servers.md.
    """

    def __init__(
        self, build: Callable[[], ClickModel], steps: int, plan: ShardingPlan | None = None, checkpoint: str | Path | None = None
    ) -> None:
        me = task()
        if me is None or me[0] != "chief":
            raise ValueError(f"ParameterServerTraining: TF_CONFIG must say that this is the chief of a cluster; it says {me}.")
        beats.begin()
        end_with_launcher()  # else it would wait for ever for workers that ended so
        self.steps = integer("ParameterServerTraining", "steps", steps, 0)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None:
            check_writable(self.checkpoint)
        self.build = build
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        # Waits for all servers and workers.
        strategy = tf.distribute.ParameterServerStrategy(resolver)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        # Never to be deleted: as the interpreter ends, its destructor waits for ever for a lock that a thread had which is no more,
        # if a worker was being waited for.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coordinator))
        cluster = resolver.cluster_spec().as_dict()
        self.workers, devices = len(cluster["worker"]), [device("ps", k) for k in range(len(cluster["ps"]))]
        with stand_in_tables():
            example = build()
        check(example)
        plan = default_plan(example.embeddings.table_shapes, len(devices)) if plan is None else plan  # type: ignore[union-attr]
        self.plan = for_servers(plan, len(devices))
        # All dense parameters on one server, whose lock makes their update whole. The strategy would deal them out.
        load = [self.plan.table_bytes(k) for k in range(len(devices))]
        home = load.index(min(load))
        with _servers_lost():
            with stand_in_tables(), tf.device(devices[home]):
                self._sharded = build()
            check_is_on(self._sharded, devices[home])
            collection: Any = self._sharded.embeddings
            self.tables = ServerTables(collection, self._sharded.optimizer.rows, self.plan, devices)
            self._servers = [Server(k, at, self.steps, len(self.tables.held)) for k, at in enumerate(devices)]
            self._step = WorkerStep(self._sharded, self.tables, self._servers, home)
            self.done = self.resumed = self._restore()
        self.evaluations: dict[int, dict[str, float]] = {}
        self._given = 0  # bytes of batches

    # -- training ----------------------------------------------------------------------------------------------------

    def fit(
        self, batch: Callable[[int], Batch], in_flight: int | None = None, checkpoint_steps: int = 1000,
        evaluation: Callable[[], Iterable[Batch]] | None = None, evaluation_steps: int = 1000,
    ) -> np.ndarray:  # fmt: skip
        """Train up to `steps`.

        Each step is applied once, also when workers die; up to `in_flight - 1` others may move its parameters before that.

        Args:
            batch: Step number, from 0 → `(packed batch, labels)`: the same whenever it is asked.
            in_flight: Steps under way at a time, two for each worker by default; 1 gives the result of one process.
            checkpoint_steps: Steps between checkpoints, where there is a folder for them; the last step is one, too.
            evaluation: Gives batches to evaluate on, which workers do alongside training.
            evaluation_steps: Steps between evaluations; see `evaluations`.

        Returns:
            Loss of each step from the first one on, those before a restart included.

        Raises:
            TypeError, ValueError: labels that the model's loss has no meaning for, as `keras.Model.fit` of a model here has it.
        """
        limit = integer("fit", "in_flight", 2 * self.workers if in_flight is None else in_flight)
        integer("fit", "checkpoint_steps", checkpoint_steps)
        integer("fit", "evaluation_steps", evaluation_steps)
        under_way: deque[Any] = deque()
        evaluated: Future[None] | None = None
        checks = Checks("fit", self._step.model.loss)
        with _servers_lost():
            for step in range(self.done, self.steps):
                if len(under_way) >= limit:
                    # A step returns nothing: there is nothing to fetch from a worker that may be gone by now.
                    under_way.popleft().get()
                x, y = batch(step)
                y, _ = checks.arrays(y, None)
                arguments = (tf.constant(step, tf.int64), self._tensors(x), tf.constant(np.reshape(y, -1), tf.float32))
                self._given += sum(t.dtype.size * int(np.prod(t.shape)) for t in (*arguments[1].values(), arguments[2]))
                under_way.append(self._coordinator.schedule(self._step.train, args=arguments))
                scheduled = step + 1
                if self.checkpoint is not None and (scheduled % checkpoint_steps == 0 or scheduled == self.steps):
                    self._join(scheduled)
                    self.save()
                if evaluation is not None and scheduled % evaluation_steps == 0:
                    if evaluated is not None:
                        evaluated.result()
                    evaluated = self._evaluate_beside(scheduled, evaluation)
            self._join(self.steps)
            if evaluated is not None:
                evaluated.result()
            return self.losses

    def _join(self, steps: int) -> None:
        self._coordinator.join()
        if steps > self.done and self.applied != steps:
            raise RuntimeError(f"{steps} steps were given out, but {self.applied} were applied; that is a defect here.")
        self.done = steps

    @property
    def applied(self) -> int:
        """Steps that every server with a part of the model has."""
        return min(server.applied for server in self._servers if self._step.uses(server))

    @property
    def losses(self) -> np.ndarray:
        """Loss of each step that is done."""
        return self._step.losses[: self.done]

    def _tensors(self, x: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        x = self._sharded.narrowing.arrays(dict(x))
        return {name: tf.constant(values, tf.int32 if name == "sparse" else tf.float32) for name, values in x.items()}

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores (see `keras_dlrm.metrics.scores`), computed by the workers with the parameters as they are.

        Args:
            batches: `(packed batch, labels)`.

        Raises:
            ValueError: there are none.
        """
        labels, asked = [], []
        for x, y in batches:
            tensors = self._tensors(x)
            labels.append(np.reshape(y, -1))
            asked.append((tensors, self._coordinator.schedule(self._step.predict, args=(tensors,))))
        if not asked:
            raise ValueError("evaluate: batches has no batch; give at least one.")
        return scores(np.concatenate(labels), np.concatenate([self._fetched(*each) for each in asked]))

    def _evaluate_beside(self, step: int, evaluation: Callable[[], Iterable[Batch]]) -> Future[None]:
        """Evaluate in a thread alongside training."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                self.evaluations[step] = self.evaluate(evaluation())
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    def _fetched(self, x: Any, value: Any) -> np.ndarray:
        for _ in range(_TRIES):
            try:
                return np.reshape(value.fetch(), -1)
            except _LOST:  # The worker that has the answer is gone.
                value = self._coordinator.schedule(self._step.predict, args=(x,))
        return np.reshape(value.fetch(), -1)

    # -- checkpoints, export -----------------------------------------------------------------------------------------

    def _restore(self) -> int:
        compiled_rate, saved = self._sharded.optimizer.rate, None
        if self.checkpoint is not None:
            saved = read(self.tables.state(self._sharded), self.checkpoint)
        rate = self._sharded.optimizer.rate
        if rate != compiled_rate:
            rates = f"the learning rate {compiled_rate:g}, but the run in {self.checkpoint} has {rate:g}"
            raise ValueError(f"the model was compiled with {rates}; compile with that, or give another folder.")
        steps, losses = (saved["step"], saved["extra"].get("losses", [])) if saved else (0, [])
        if steps > self.steps:
            raise ValueError(f"the checkpoint in {self.checkpoint} is of step {steps}, beyond steps={self.steps}.")
        if not steps:
            self.tables.draw()
        for server in self._servers:
            server.restore(steps)
        self._step.losses = np.array(losses, np.float32)
        return steps

    def save(self) -> Path:
        """Write a checkpoint now, as `kd.checkpoint.save` does; no step may be under way."""
        if self.checkpoint is None:
            raise ValueError("save: give ParameterServerTraining a folder for checkpoints.")
        with _servers_lost():
            return write(self.tables.state(self._sharded), self.checkpoint, self.done, {"losses": self.losses.tolist()})

    def embedding_tables(self) -> dict[str, np.ndarray]:
        """Logical tables: name → float32 (rows, D)."""
        with _servers_lost():
            return {name: np.concatenate([rows for _, rows in self.tables.read(name)]) for name in self.plan.shapes}

    def model(self) -> ClickModel:
        """A model that is not sharded, with the parameters as they are and a fresh optimizer; its tables are copies."""
        model = self.build()
        with _servers_lost():
            trained = [v for v in self._sharded.variables if not is_table(v)]
            for variable, value in zip([v for v in model.variables if not is_table(v)], trained, strict=True):
                variable.assign(value.numpy())
            model.set_embedding_tables(self.embedding_tables())
        return model

    # -- what it costs -----------------------------------------------------------------------------------------------

    def bytes_sent(self) -> dict[str, int]:
        """Payload that each process sent to others in training: ids, rows, dense parameters, gradients and batches.

        Rows are counted as they are asked for. Any worker runs any step: each is given the mean of all.
        """
        workers, servers = self._step.bytes_sent(self.done - self.resumed)
        sent = [workers // self.workers] * self.workers + servers + [self._given]
        return dict(zip(self._processes, sent, strict=True))

    def peak_memory(self) -> dict[str, int]:
        """Most bytes of memory that each process had at a time (Linux); a worker since its last start, 0 while it is away."""
        peaks = {}
        with _servers_lost():
            for name in self._processes:
                try:
                    peaks[name] = peak_memory(device(*name.split(":")))
                except tf.errors.OpError:
                    if not name.startswith("worker"):
                        raise
                    peaks[name] = 0
        return peaks

    @property
    def _processes(self) -> list[str]:
        counts = (("worker", self.workers), ("ps", len(self._servers)), ("chief", 1))
        return [f"{job}:{index}" for job, count in counts for index in range(count)]


@contextlib.contextmanager
def _servers_lost() -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        fix = "start all processes again, with the same checkpoint folder to resume from the last checkpoint"
        raise ServerLostError(f"a parameter server was lost; {fix}. TensorFlow says: {str(error)[:500]}") from error


def device(job: str, index: int | str) -> str:
    """The device of a process."""
    return f"/job:{job}/replica:0/task:{index}/device:CPU:0"

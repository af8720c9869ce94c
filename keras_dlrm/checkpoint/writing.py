"""`save` and `Checkpoints`: each process writes its parts, the first one the manifest; one commit makes them visible."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.checkpoint.parts import (
    DENSE,
    MANIFEST,
    VERSION,
    Base,
    bases_of,
    check_written,
    folder_of,
    read_manifest,
    steps_in,
    write_pieces,
)
from keras_dlrm.checkpoint.state import State, state_of, value_of
from keras_dlrm.files.checksums import digest, sealed
from keras_dlrm.files.durable import check_writable, publish, sync
from keras_dlrm.files.ownership import check, held, identity, mark, remove, remove_unmarked
from keras_dlrm.sharding import collectives, everyone
from keras_dlrm.sharding.processes import PREEMPTED
from keras_dlrm.support.arguments import integer

_WHAT = "a checkpoint"


def save(
    model: Any, directory: str | Path, step: int | None = None, extra: Mapping[str, Any] | None = None, keep: int | None = 2,
    incremental: bool = False,
) -> Path:  # fmt: skip
    """Write tables, slots, dense parameters and counters of a model in training.

    Where a plan shards the tables, all processes call it, with a directory that all see; each writes its parts. The checkpoint
    appears under its name, `step_…`, when everything is on the disk, or not at all. Checkpoints of later steps are removed: they
    belong to a run that was given up for this one. A checkpoint does not depend on how the tables are stacked or sharded, on the
    number of processes or the backend: `restore` reads it into any model of the same architecture.

    Args:
        model: A compiled and built model.
        directory: Folder of the checkpoints.
        step: Its number; the optimizer's step by default.
        extra: More that `restore` is to return, such as JSON can write. That of process 0 counts.
        keep: How many checkpoints stay, this one among them; `None`: all. A checkpoint that they are changes of stays, too.
        incremental: Whether to write only the rows of tables and slots that differ from the last whole checkpoint; without one of
            the same plan, this one is whole. It reads that one, and saves the writing.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: the model is not built; an argument is out of range.
        OSError: something could not be written, in any process, another run is saving there, or the processes do not see the same
            folder; the process's number and the reason are named in all. Earlier checkpoints are as they were.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)])
    >>> log = kd.data.synthetic.PlantedClickLog(schema, seed=0)
    >>> model = kd.models.DLRM(schema, 4, top_mlp=[4, 1])
    >>> model.compile("adagrad")
    >>> batch, label = next(log.batches(8, n_batches=1))
    >>> loss = model.train_on_batch(batch, label)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kd.checkpoint.save(model, folder).name, kd.checkpoint.restore(model, folder)["step"]
    ('step_0000000001', 1)
    """
    state = state_of(model)
    if step is None:
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"save: {model.name} is not compiled, and so has no step; compile it, or give step=….")
        step = int(ops.convert_to_numpy(model.optimizer.iterations))  # a tensor where gradients are accumulated
    step = integer("save", "step", step, 0)
    try:
        json.dumps(dict(extra or {}))
    except TypeError as error:
        raise ValueError(f"save: extra={extra!r} must be what JSON can write: {error}.") from error
    return write(state, Path(directory), step, extra, keep, incremental)


def write(
    state: State, directory: Path, step: int, extra: Mapping[str, Any] | None, keep: int | None = 2, incremental: bool = False
) -> Path:
    """Write a checkpoint of a state, as `save` does of a model."""
    shared = state.shared and collectives.process_count() > 1
    first = not shared or collectives.process_rank() == 0
    final = folder_of(directory, step)
    partial = directory / f".{final.name}.partial"
    base = _base(directory, step) if incremental else None

    alone = contextlib.ExitStack()
    begun = False

    def begin() -> None:
        if first:
            try:
                taken = f"another run is saving to {directory}; give each run a folder of its own."
                alone.enter_context(held(directory / ".saving", taken))
            except RuntimeError as error:
                raise OSError(str(error)) from None
            # Of this step, and of others that a killed run was writing: each is as large as the tables.
            _remove_left(directory)
            if os.path.lexists(partial):
                raise FileExistsError(f"{partial} is in the way, and was not written here; move it, or save to another folder.")
            partial.mkdir(parents=True)
            os.close(mark(partial, _owner(partial)))

    def write_mine() -> list[dict[str, Any]]:
        nonlocal begun
        begun = True
        if first:
            arrays: dict[str, Any] = {name: value_of(v) for name, v in state.dense.items()}
            np.savez(partial / DENSE, **arrays)
            sync(partial / DENSE)
        # What every process has is written by the first.
        return write_pieces(partial, (piece for piece in state.pieces if piece.shard.rank is not None or first), base)

    def commit(parts: list[dict[str, Any]]) -> None:
        if first:
            for part in parts:
                check_written(partial, part)
            paths = {name: v.path.rpartition("/")[2] for name, v in state.dense.items()}
            needed = base.step if base is not None and any("changes" in part for part in parts) else None
            manifest = {
                "version": VERSION, "step": step, "base": needed, "extra": dict(extra or {}), "identity": state.identity,
                "dense": paths, "dense_checksum": digest(partial / DENSE), "parts": parts,
            }  # fmt: skip
            if needed is not None and base is not None:
                manifest["base_checksum"] = base.checksum
            (partial / MANIFEST).write_text(json.dumps(sealed(manifest)), encoding="utf-8")
            sync(partial / MANIFEST)
            os.close(mark(partial, _owner(final), [MANIFEST, DENSE, *(f"{part['file']}/**" for part in parts)]))
            # Saved before, and then trained from an earlier one.
            _remove(directory, {s for s in steps_in(directory) if s > step})
            if final.exists():
                check(final, _owner(final), _WHAT)
                final.rename(_removed(final))
            publish(partial, final)
            _remove_partial(_removed(final))
            steps = steps_in(directory)
            kept = {step, *steps[-keep:]} if keep else set(steps)
            _remove(directory, set(steps) - kept - bases_of(directory, sorted(kept)), OSError)  # the new one is there

    with alone:
        try:
            _together(shared, begin)
            written = _together(shared, write_mine)
            _together(shared, lambda: commit([part for parts in written for part in parts]))
        except BaseException:
            # The first process's folder, or one that it does not see.
            if begun and (first or not (partial / DENSE).exists()):
                _remove_partial(partial)
            raise
    return final


def clear(directory: Path, kept: int | None = None) -> None:
    """Remove all checkpoints of a folder, and the folder where nothing else is in it; all but one as far as the disk lets it."""
    _remove(directory, set(steps_in(directory)) - {kept}, *([] if kept is None else [OSError]))
    _remove_left(directory)
    with contextlib.suppress(OSError):
        directory.rmdir()


def _remove(directory: Path, steps: set[int], *ignored: type[Exception]) -> None:
    """Remove checkpoints, each renamed first: half deleted it would be a damaged one. The latest first: it may be changes."""
    for step in sorted(steps, reverse=True):
        folder = folder_of(directory, step)
        with contextlib.suppress(*ignored):
            check(folder, _owner(folder), _WHAT)
            folder.rename(_removed(folder))
            _remove_partial(_removed(folder))


def _remove_left(directory: Path) -> None:
    for left in directory.glob(".step_*.partial"):
        _remove_partial(left)


def _removed(folder: Path) -> Path:
    """The name of a checkpoint that is being removed; what a kill leaves of it goes with the next save."""
    return folder.parent / f".{folder.name}.old.partial"


def _remove_partial(folder: Path) -> None:
    """Remove what is not, or no longer, a checkpoint. What is not this package's own, or holds anything else, stays."""
    with contextlib.suppress(OSError):
        remove(folder, _owner(folder), _WHAT)
    remove_unmarked(folder)


def _owner(folder: Path) -> str:
    """The owner in a checkpoint's marker, under each of its names; checkpoints may be copied with the folder around them."""
    return identity("checkpoint", folder.name.removeprefix(".").partition(".")[0])


def _base(directory: Path, step: int) -> Base | None:
    """The last whole checkpoint before a step."""
    for earlier in reversed([s for s in steps_in(directory) if s < step]):
        folder = folder_of(directory, earlier)
        with contextlib.suppress(ValueError):  # a damaged one is not a base
            manifest = read_manifest(folder)
            if manifest.get("base") is None:
                return Base(earlier, folder, manifest)
    return None


def _together(shared: bool, work: Callable[[], Any]) -> list[Any]:
    """Results of all processes that have parts of a model; `OSError` in all where one of them failed."""
    result, error = None, None
    try:
        result = work()
    except Exception as failure:  # the others wait for this one's word, whatever it is
        if not shared and isinstance(failure, (OSError, ValueError)):  # tensorstore reports a full disk as a ValueError
            raise OSError(f"checkpoint: {failure}") from failure
        if not shared:
            raise
        error = f"{type(failure).__name__}: {failure}"
    every = everyone.values([result, error]) if shared else [(result, None)]
    for rank, (_, failed) in enumerate(every):
        if failed:
            raise OSError(f"checkpoint: process {rank} could not write: {failed}")
    return [result for result, _ in every]


class Checkpoints(keras.callbacks.Callback):
    """Saves every so many steps, at the end, and when the process gets SIGTERM: then training ends after the save.

    All processes save at the same step: every `look` steps they ask each other whether one was told to end.

    Args:
        directory: Folder of the checkpoints.
        steps: Steps between two.
        first: Steps before this `fit`.
        extra: `() → dict`: what else to remember.
        keep: How many stay.
        whole: Every how many saves is a whole checkpoint; those between have only the rows that are not as in it. 1: all.
        look: Steps between two looks for SIGTERM.

    Raises:
        OSError: when training begins, `directory` cannot be written to.
        ValueError: `steps`, `whole` or `look` is not 1 or more.

    Attributes:
        preempted: Whether training ended because of SIGTERM.
    """

    def __init__(
        self, directory: str | Path, steps: int, first: int = 0, extra: Callable[[], dict[str, Any]] = dict,
        keep: int | None = 2, whole: int = 1, look: int = 10,
    ) -> None:  # fmt: skip
        super().__init__()
        self.directory, self.extra, self.keep = Path(directory).absolute(), extra, keep
        self.steps, self.whole, self.look = (
            integer("Checkpoints", name, value) for name, value in (("steps", steps), ("whole", whole), ("look", look))
        )
        self.step = first
        self.preempted = False
        self._told = False
        self._saved, self._saves = first, 0
        self._previous: Any = None

    def _save(self) -> None:
        save(self.model, self.directory, self.step, self.extra(), self.keep, incremental=self._saves % self.whole > 0)
        self._saved = self.step
        self._saves += 1

    def on_train_begin(self, logs: Any = None) -> None:
        check_writable(self.directory)
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: Any) -> None:
        self._told = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        told = self._told
        if self.step % self.look == 0 and getattr(self.model, "shared", False):
            told = bool(everyone.arrays(np.array([told])).any())
        if self.step % self.look == 0 and told:
            self.preempted = True
            self._save()
            self.model.stop_training = True
            raise SystemExit(PREEMPTED)
        if self.step % self.steps == 0:
            self._save()

    def on_train_end(self, logs: Any = None) -> None:
        if self._saved != self.step:
            self._save()
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

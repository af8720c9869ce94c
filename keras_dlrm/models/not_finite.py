"""Check for NaN and infinity in losses and weights, which stops training."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dlrm.checkpoint.state import collections_of, pieces, value_of
from keras_dlrm.support.values import NotFinite

_ROWS = 2**16


def first_not_finite(model: Any, tables: bool = True, cached: bool = False) -> str | None:
    """The first weight of a built model that is NaN or infinite, in words with its path or its table's name, if there is one.

    The embedding tables are read a part at a time; with `cached`, of host tables only the rows on the device, among which are
    those of the last step.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)])
    >>> model = kd.models.DLRM(schema, 2, top_mlp=[1])
    >>> first_not_finite(model) is None
    True
    >>> _ = model.top_mlp.weights[-1].assign([np.nan])
    >>> first_not_finite(model)
    "'top_mlp/dense_0/bias' has nan at (0,)"
    """
    collections = collections_of(model)
    in_tables = {id(v) for collection in collections for v in collection.tables}
    for variable in model.weights:
        if id(variable) in in_tables or not keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype)):
            continue
        value = value_of(variable)
        if not np.isfinite(value).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            return f"{variable.path!r} has {value[place]} at {place}"
    for collection in collections if tables else ():
        if cached and collection.host is not None:
            for host in collection.store.hosts:
                row = host.not_finite()
                if row is not None:
                    return f"a row of the tables of width {host.row_width} is not finite, row {row} of these tables together"
            continue
        for piece in pieces(collection.store, collection.table_shapes, lambda table: {}):
            for start in range(0, piece.shard.rows, _ROWS):
                rows = piece.read(start, min(start + _ROWS, piece.shard.rows))
                if not np.isfinite(rows).all():
                    row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
                    return (
                        f"table {piece.shard.table!r} has {rows[row, column]} in row {piece.shard.start + start + row}, place "
                        f"{piece.shard.first + column}"
                    )
    return None


def require_finite(who: str, model: Any) -> None:
    """`NotFinite`, which names the variable or table, where a weight of a model is NaN or infinite; `who` must not continue."""
    wrong = first_not_finite(model)
    if wrong is not None:
        raise NotFinite(
            f"{who}: {wrong}, so the model has no sensible answers; take one from before training went wrong, or train again "
            "with a lower learning rate."
        )


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends `fit` with an error when the loss or a dense weight is NaN or infinite. `fit` adds one by itself.

    The loss is looked at wherever Keras makes a number of it, after each batch; weights at the end of an epoch, before
    any other callback sees it. So no other callback saves such a model.

    Raises:
        NotFinite: in `fit`; the message names the first bad variable, and what to try.
    """

    # Batches are looked at in Keras's own thread for that, where it has one: then training does not wait for the numbers.
    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._wrong: str | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._wrong = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        name = _not_finite_loss(logs)
        if name is not None and self._wrong is None:
            self._wrong = f"{name} is {(logs or {})[name]} in epoch {self._epoch + 1} at batch {batch + 1}"
            # Not `self.model`, which on JAX would write to the variables alongside a step that runs.
            self._trained.stop_training = True

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._trained = model

    def on_test_begin(self, logs: Any = None) -> None:
        if self._wrong is not None:  # No validation of such a model.
            self._stop(self._wrong)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        name = _not_finite_loss(logs)
        if self._wrong is None and name is not None:
            self._wrong = f"{name} is {(logs or {})[name]} in epoch {epoch + 1}"
        if self._wrong is not None:
            self._stop(self._wrong)
        wrong = first_not_finite(self.model, tables=False)
        if wrong is not None:
            raise _stopped(self.model, f"after epoch {epoch + 1} {wrong}")

    def _stop(self, why: str) -> None:
        wrong = first_not_finite(self.model, tables=not getattr(self.model, "shared", False))
        raise _stopped(self.model, f"{why}, and {wrong or 'all weights are finite'}")


@contextlib.contextmanager
def watched(model: Any, callbacks: Any) -> Iterator[Any]:
    """Callbacks of `fit` with a `StopWhenNotFinite`; afterwards the tables are looked at.

    Unless the model's `stops_when_not_finite` is false, or there is a `keras.callbacks.TerminateOnNaN`, which says what else to
    do.
    """
    made = isinstance(callbacks, keras.callbacks.CallbackList)
    listed = callbacks.callbacks if made else keras.tree.flatten(callbacks) if callbacks else []
    stoppers = (StopWhenNotFinite, keras.callbacks.TerminateOnNaN)
    if not model.stops_when_not_finite or any(isinstance(callback, stoppers) for callback in listed):
        yield callbacks
        return
    stopper = StopWhenNotFinite()
    if made:
        stopper.set_model(model)
        callbacks.callbacks.insert(0, stopper)
    yield callbacks if made else [stopper, *listed]
    # The last step's update; rows of other processes are theirs to look at.
    wrong = None if getattr(model, "shared", False) else first_not_finite(model, cached=True)
    if wrong is not None:
        raise _stopped(model, f"after the last batch {wrong}")


def _not_finite_loss(logs: Any) -> str | None:
    """Name of the first loss in some logs that is not a number; those of validation say nothing of the weights."""
    for name, value in (logs or {}).items():
        is_loss = name == "loss" or (name.endswith("_loss") and not name.startswith("val_"))
        if is_loss and isinstance(value, float) and not math.isfinite(value):
            return str(name)
    return None


def _stopped(model: Any, why: str) -> NotFinite:
    return NotFinite(
        f"{model.name}: training stopped: {why}. Lower the learning rate, set clipnorm of the dense optimizer, or look for NaN and "
        "infinity in the dense features, weights and labels. Its weights are of no use now: take a model that was saved before."
    )

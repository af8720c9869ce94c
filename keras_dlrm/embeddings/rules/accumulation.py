"""Accumulation of the rows' gradients over several batches."""

from typing import Any

from keras import ops

from keras_dlrm import backend


class RowAccumulator:
    """Row ids and gradients of the last `steps` batches of one table, in variables of a fixed size.

    Keras accumulates a dense parameter's gradient in a second variable of its size. For a table that would be a second
    table, and finding the rows to update would mean reading it all; so the batches' own rows are kept instead. A batch looks up
    at most `lookups` row ids; the optimizer owns the variables.
    """

    def __init__(self, optimizer: Any, table: Any, steps: int, lookups: int) -> None:
        self.beyond = table.shape[0]
        self.steps = steps
        self.lookups = lookups
        name = table.path.replace("/", "_")
        add, room = optimizer.add_variable, steps * lookups
        self.ids = add((room,), initializer="zeros", dtype="int32", name=f"{name}_accumulated_ids")
        self.gradients = add((room, table.shape[1]), initializer="zeros", name=f"{name}_accumulated_gradients", dtype="float32")

    def check_room(self, lookups: int) -> None:
        """`ValueError` where a batch with so many lookups would not fit."""
        if lookups > self.lookups:
            raise ValueError(
                f"optimizer: a batch looks up {lookups} rows, but gradients are accumulated for at most {self.lookups}, as "
                "many as the first batch could; put the largest batch first, or compile again."
            )

    def add(self, ids: Any, gradient: Any, place: Any) -> None:
        """Keep unique row ids (n,) and gradients (n, D) of the batch at a place from 0; `ValueError` without room for them."""
        if isinstance(ids.shape[0], int):
            self.check_room(ids.shape[0])
        room = self.lookups - ops.shape(ids)[0]
        ids = ops.concatenate([ops.cast(ids, "int32"), ops.full((room,), self.beyond, dtype="int32")])
        rest = ops.zeros((room, gradient.shape[1]), "float32")
        gradient = ops.concatenate([ops.cast(gradient, "float32"), rest])
        start = place * self.lookups
        self.ids.assign(ops.slice_update(self.ids.value, (start,), ids))
        self.gradients.assign(ops.slice_update(self.gradients.value, (start, 0), gradient))

    def mean(self, last: Any) -> tuple[Any, Any]:
        """The update's rows: unique ids and the mean over the batches of their gradients; none before the last batch was added."""
        ids = ops.where(last, self.ids.value, self.beyond)
        unique_ids, index = backend.unique(ids, self.beyond)
        gradient = backend.sum_by(self.gradients.value, index, ops.shape(unique_ids)[0]) / self.steps
        rows: tuple[Any, Any] = backend.within(unique_ids, gradient, self.beyond)
        return rows

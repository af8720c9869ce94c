"""Batches of one process among many: its loss and gradients are parts of the whole."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.sharding.part import FILLER


class WholeBatch:
    """A step of a process that is alone: everything as it is."""

    def __init__(self, sample_weight: Any) -> None:
        self.sample_weight = sample_weight
        #: 1 of rows of the batch, 0 of those that fill up a part, float32 (B,); `None`: all are of the batch.
        self.real: Any = None
        self._of_rows: Any = 1.0  # this process's share of the real rows

    def share(self, loss: Any) -> Any:
        """This process's part of the loss of the whole batch."""
        return loss

    def sum(self, tensors: Sequence[Any]) -> list[Any]:
        """Sums over all processes."""
        return list(tensors)

    def totals(self, grads: Sequence[Any], loss: Any, changes: Sequence[Any]) -> tuple[list[Any], Any, list[Any]]:
        """Sums over all processes, in one message, of dense gradients and parts of the loss; and means of changes.

        Changes are those of what layers keep of the rows that they see, such as moving means. Their means are weighted by rows:
        what all processes keep then stays the same.
        """
        sums = self.sum([*grads, loss, *(ops.cast(change, "float32") * self._of_rows for change in changes)])
        return sums[: len(grads)], sums[len(grads)], sums[len(grads) + 1 :]

    def gather(self, y: Any, y_pred: Any) -> tuple[Any, Any, Any]:
        """Labels, predictions and sample weights of all processes' rows."""
        return y, y_pred, self.sample_weight

    def every(self, x: Any) -> Any:
        """All processes' rows of a tensor (B, …), one below the other; the gradient of a row is the sum of what all make of it."""
        return x

    @property
    def place(self) -> Any:
        """This process's place among all: of their rows, place · B is its first."""
        return 0

    @property
    def rows(self) -> Any:
        """Rows of the whole batch; `None`: as many as there are."""
        return None


class PartOfBatch(WholeBatch):
    """A step of one of N processes, each with an equally large part of the batch; rows that fill it up have the weight `FILLER`."""

    def __init__(self, model: Any, x: Any, sample_weight: Any) -> None:
        from keras_dlrm.sharding import collectives as backend

        super().__init__(sample_weight)
        self._backend = backend
        self._model = model
        here = ops.cast(ops.shape(keras.tree.flatten(x)[0])[0], "float32")
        reduction = getattr(model.loss, "reduction", "sum_over_batch_size")
        self._marked = None
        if sample_weight is None:  # on no process: their parts are equally large
            whole = self._rows = here * backend.world_size()
            self._of_rows = 1.0 / backend.world_size()
        else:
            self._marked = ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
            self.sample_weight = _without_filler(self._marked)
            self.real = ops.cast(ops.not_equal(self._marked, FILLER), "float32")
            real = part = ops.sum(self.real)
            if reduction == "mean_with_sample_weight":
                here = part = ops.sum(self.sample_weight)
            whole, self._rows = backend.all_sum([part, real])
            self._of_rows = real / self._rows
        self._share = ops.ones_like(whole) if reduction == "sum" else here / whole

    def share(self, loss: Any) -> Any:
        extra = [ops.cast(e, "float32") for e in self._model.losses]
        regular = sum(extra) if extra else 0.0
        # Of a part without any real row the mean is not a number.
        own = ops.where(self._share > 0, (loss - regular) * self._share, ops.zeros_like(loss))
        return own + regular / self._backend.world_size()

    def sum(self, tensors: Sequence[Any]) -> list[Any]:
        present = [t for t in tensors if t is not None]
        sums = iter(self._backend.all_sum(present))
        return [None if t is None else next(sums) for t in tensors]

    def gather(self, y: Any, y_pred: Any) -> tuple[Any, Any, Any]:
        whole = (y, y_pred, self._marked)
        tensors = [ops.convert_to_tensor(t) for t in keras.tree.flatten(whole) if t is not None]
        shapes = [tuple(ops.shape(t)) for t in tensors]
        ends = list(itertools.accumulate((math.prod(shape[1:]) for shape in shapes), initial=0))
        columns = [ops.cast(ops.reshape(t, (s[0], -1)), "float32") for t, s in zip(tensors, shapes, strict=True)]
        every = self._backend.gather(ops.concatenate(columns, axis=1))  # one message instead of three
        if self._marked is not None:
            every = self._backend.real_rows(every, ops.not_equal(every[:, -1], FILLER))
        parts = [every[:, first:last] for first, last in itertools.pairwise(ends)]
        gathered = iter(
            ops.cast(ops.reshape(part, (-1, *shape[1:])), keras.backend.standardize_dtype(t.dtype))
            for part, t, shape in zip(parts, tensors, shapes, strict=True)
        )
        y, y_pred, marked = keras.tree.map_structure(lambda t: None if t is None else next(gathered), whole)
        return y, y_pred, None if marked is None else _without_filler(marked)

    def every(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
            return self._backend.gather(x)
        # The same to everyone, by an exchange: its gradient brings back what each has made of it.
        copies = ops.repeat(ops.expand_dims(x, 0), self._backend.world_size(), axis=0)
        return ops.reshape(self._backend.exchange(copies), (-1, *x.shape[1:]))

    @property
    def place(self) -> Any:
        return self._backend.rank()

    @property
    def rows(self) -> Any:
        return self._rows


def _without_filler(weight: Any) -> Any:
    """Weights that can be multiplied with: 0 of filler."""
    return ops.where(ops.equal(weight, FILLER), ops.zeros_like(weight), weight)

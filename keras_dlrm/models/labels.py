"""Checks of labels and sample weights, in every form in which they come."""

import dataclasses
import decimal
import functools
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_dlrm.embeddings.inputs import is_dense
from keras_dlrm.losses import ESMM, InBatchSoftmax
from keras_dlrm.models.losses import CROSS_ENTROPIES, function_of
from keras_dlrm.sharding.part import FILLER


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that are allowed, ends but for infinity included, words for others, and whether `FILLER` or NaN are, too."""

    low: float
    high: float
    words: str
    filler: bool = False
    missing: bool = False

    def allows(self, values: np.ndarray) -> bool:
        """Whether all are allowed. NaN is not."""
        if values.size == 0 or values.dtype.kind == "b":
            return True
        if self.filler:
            values = np.where(values == FILLER, 0, values)
        if self.missing:
            values = values[~np.isnan(values.astype(np.float64))]
            if not values.size:
                return True
        low, high = float(values.min()), float(values.max())
        return low >= self.low and high <= self.high and high < np.inf

    def wrong(self, values: np.ndarray) -> np.ndarray:
        """A mask of those that are not."""
        values = values.astype(np.float64)
        allowed: np.ndarray = (values >= self.low) & (values <= self.high) & (np.abs(values) < np.inf)
        if self.missing:
            allowed |= np.isnan(values)
        return ~(allowed | (values == FILLER)) if self.filler else ~allowed


_PROBABILITY = Range(
    0.0, 1.0, "a binary cross-entropy needs labels in [0, 1]. Make 0 of no click and 1 of a click, and drop rows without a label."
)
_FINITE = Range(-np.finfo("f8").max, np.inf, "labels must be finite numbers. Drop rows without a label.")
_WEIGHT = Range(0.0, np.inf, "sample weights must be finite numbers >= 0. Give 0 to rows that shall not count.")
# Losses of this package that take labels as a cross-entropy does.
_OWN = (ESMM, InBatchSoftmax)


class Checks:
    """Checks of the labels and sample weights of one call, such as `fit`.

    Labels of Keras's own binary cross-entropies must be in [0, 1], of its other losses finite; a loss of the user's own may
    give any number a meaning. They must be numbers in any case. With `filler` rows may have the sample weight `FILLER`,
    with `missing` labels may be NaN.

    Attributes:
        error: The error that a batch raised as it was read, if any. TensorFlow makes an error of its own of it.
    """

    def __init__(self, who: str, loss: Any, filler: bool = False, missing: bool = False) -> None:
        self.who = who
        self._loss = loss
        self._missing = missing
        self._weight = dataclasses.replace(_WEIGHT, filler=filler)
        self.error: Exception | None = None

    def arrays(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Check labels and sample weights in memory: in any form, a dict or list of those of many outputs, or `None`.

        Arrays and the backend's tensors come back as they are, anything else as NumPy arrays. `TypeError` for no
        numbers, `ValueError` for numbers that are not allowed, or missing ones.
        """
        return self._both(y, sample_weight, self._checked)

    def class_weight(self, class_weight: Any) -> None:
        """Check the weights of classes, a mapping or `None`."""
        for label, weight in (class_weight or {}).items():
            if not isinstance(weight, (numbers.Real, np.generic)) or not 0 <= weight < np.inf:  # type: ignore[operator]
                raise ValueError(f"{self.who}: class_weight[{label!r}]={weight!r} must be a finite number >= 0.")

    def each(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, each one checked before it is handed on, with labels and sample weights as `arrays` gives them."""
        for number, batch in enumerate(batches):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            both = self._both(y, sample_weight, functools.partial(self.of_batch, number))
            yield (x, *both[: len(batch) - 1]) if isinstance(batch, (tuple, list)) else batch

    def of_batch(self, number: int, what: str, values: Any, allowed: Range | None) -> Any:
        """Check one of the `leaves` of one of many batches, and give it as `arrays` does; `error` is what is raised."""
        try:
            return self._checked(what, values, allowed, f" of batch {number}")
        except (TypeError, ValueError) as error:
            self.error = error
            raise

    def leaves(self, y: Any, sample_weight: Any) -> list[tuple[str, Any, Range | None]]:
        """Labels and sample weights one by one, each with its name and the numbers that it may have."""
        leaves: list[tuple[str, Any, Range | None]] = []
        self._both(y, sample_weight, lambda *leaf: leaves.append(leaf))
        return leaves

    def allowed(self, output: str | int | None) -> Range | None:
        """Numbers that labels of an output may be; `None`: any."""
        try:
            losses = [self._loss[output]]
        except (KeyError, IndexError, TypeError):
            # One loss for all, or which one it is cannot be seen here.
            losses = keras.tree.flatten(self._loss)
        functions = [type(loss) if type(loss) in _OWN else function_of(loss) for loss in losses]
        if not functions or None in functions:
            return None
        allowed = _PROBABILITY if all(each in (*CROSS_ENTROPIES, *_OWN) for each in functions) else _FINITE
        return dataclasses.replace(allowed, missing=self._missing)

    def _both(self, y: Any, sample_weight: Any, do: Any) -> tuple[Any, Any]:
        """Results of a function of each output's labels and sample weights, their name, and the numbers that they may be."""
        labels = _each(y, lambda output, values: do(f"label{_of(output)}", values, self.allowed(output)))
        return labels, _each(sample_weight, lambda output, values: do(f"sample weight{_of(output)}", values, self._weight))

    def _checked(self, what: str, values: Any, allowed: Range | None, place: str = "") -> Any:
        array = self._array(what, values, place)
        if array.ndim == 0:
            raise ValueError(f"{self.who}: the {what}s{place} are {values!r}; give an array, one number a row.")
        if allowed is not None and not allowed.allows(array):
            where = np.unravel_index(int(np.argmax(allowed.wrong(array))), array.shape)
            raise ValueError(f"{self.who}: {what} {array[where]} in row {where[0]}{place}; {allowed.words}")
        return values if _is_tensor(values) else array

    def _array(self, what: str, values: Any, place: str) -> np.ndarray:
        """Values as an array of numbers."""
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and not isinstance(values, np.ma.MaskedArray):
            return values
        array = self._converted(what, values)
        if isinstance(array, np.ma.MaskedArray):
            if np.ma.getmaskarray(array).any():
                row = np.argwhere(np.ma.getmaskarray(array))[0][0]
                raise ValueError(f"{self.who}: {what} in row {row}{place} is masked; {self._fix(what)}")
            array = array.data
        if array.dtype.kind == "O" and array.ndim:
            array = self._of_objects(what, array, place)
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise TypeError(f"{self.who}: the {what}s have dtype {array.dtype}{place and ' in' + place[3:]}; they must be numbers.")
        return array

    def _converted(self, what: str, values: Any) -> np.ndarray:
        kind = type(values).__name__
        if not is_dense(values):
            raise TypeError(f"{self.who}: the {what}s are a {kind}; give one number a row, as a dense array.")
        if hasattr(values, "detach"):  # torch, whose bfloat16 NumPy does not have
            values = values.detach().cpu()
            values = values.float() if "bfloat16" in str(values.dtype) else values
        if isinstance(values, np.ma.MaskedArray):
            return values
        try:
            return np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{self.who}: the {what}s, a {kind}, make no array of numbers ({error}).") from error

    def _of_objects(self, what: str, array: np.ndarray, place: str) -> np.ndarray:
        for where, value in np.ndenumerate(array):
            if not isinstance(value, (numbers.Real, np.bool_, decimal.Decimal)):
                text = isinstance(value, (str, bytes))
                raise (TypeError if text else ValueError)(
                    f"{self.who}: {what} {value!r} in row {where[0]}{place} is not a number; "
                    + ("make numbers of the texts." if text else self._fix(what))
                )
        return array.astype(np.float64)

    def _fix(self, what: str) -> str:
        """The advice where there is no number."""
        return "give NaN where a label is missing." if self._missing and what.startswith("label") else "drop rows without one."


def _each(values: Any, do: Any) -> Any:
    """Results of a function of the name or number of each output (`None` of the only one) and its values, in the same structure."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: None if one is None else do(name, one) for name, one in values.items()}
    if isinstance(values, (list, tuple)) and any(isinstance(one, Mapping) or _is_array(one) for one in values):
        return type(values)([None if one is None else do(i, one) for i, one in enumerate(values)])
    return do(None, values)


def _of(output: str | int | None) -> str:
    return "" if output is None else f" of output {output!r},"


def _is_array(values: Any) -> bool:
    # Single values of pandas, such as `NaT`, have `to_numpy`, too.
    return bool(getattr(values, "shape", ())) or (hasattr(values, "to_numpy") and hasattr(values, "__len__"))


def _is_tensor(values: Any) -> bool:
    """Whether Keras takes values as they are, in every call."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind != "O" and not isinstance(values, np.ma.MaskedArray)
    return bool(keras.ops.is_tensor(values))

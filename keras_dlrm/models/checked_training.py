"""Calls that read labels, with the labels checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import DataAdapter
from keras_dlrm.embeddings.inputs import check_dense
from keras_dlrm.models.labels import Checks
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step import SparseStep
from keras_dlrm.step.checked import arguments, checked, is_read_by_batch


class CheckedTraining(SparseStep):
    """Mixed into a `keras.Model`: no wrong label or sample weight, in whatever form it comes, gets into a step.

    Arrays, lists, frames and tensors are checked before anything is read; data that come batch by batch as each batch is read.
    """

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`.

        Raises:
            TypeError: labels or sample weights that are no numbers.
            ValueError: arrays without rows; missing labels; labels outside [0, 1] for one of Keras's own binary
                cross-entropies, or that are not finite for another loss of Keras's; sample weights that are negative or not
                finite; the split of another log than the model is for.
        """
        given = arguments(keras.Model.fit, self, args, kwargs)
        checks, of_validation = self._checks("fit"), self._checks("fit: validation_data")
        checks.class_weight(given["class_weight"])
        given = self._checked(given, checks)
        if given["validation_data"] is not None:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given["validation_data"])
            found = self._checked({"x": x, "y": y, "sample_weight": sample_weight}, of_validation)
            both = found["y"] is None and found["sample_weight"] is None
            given["validation_data"] = found["x"] if both else (found["x"], found["y"], found["sample_weight"])
        with _as_it_was_found(checks, of_validation):
            return super().fit(**given)  # type: ignore[misc]

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`; raises as `fit` does."""
        if kwargs.get("_use_cached_eval_dataset"):  # within `fit`, which has checked it
            return super().evaluate(*args, **kwargs)  # type: ignore[misc]
        checks = self._checks("evaluate")
        given = self._checked(arguments(keras.Model.evaluate, self, args, kwargs), checks)
        with _as_it_was_found(checks):
            return super().evaluate(**given)  # type: ignore[misc]

    def train_on_batch(self: Any, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`; raises as `fit` does."""
        x, y, sample_weight = self._checked_batch("train_on_batch", x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, *args, **kwargs)  # type: ignore[misc]

    def test_on_batch(self: Any, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`; raises as `fit` does."""
        x, y, sample_weight = self._checked_batch("test_on_batch", x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, *args, **kwargs)  # type: ignore[misc]

    def predict(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`.

        Raises:
            TypeError: ids that are sparse or ragged.
            ValueError: the split of another log, whose ids or dense values mean something else.
        """
        self._check_schema("predict", x)
        check_ids("predict", x)
        return super().predict(x, *args, **kwargs)  # type: ignore[misc]

    def predict_on_batch(self: Any, x: Any) -> Any:
        """As `keras.Model.predict_on_batch`; raises as `predict` does."""
        check_ids("predict_on_batch", x)
        return super().predict_on_batch(x)  # type: ignore[misc]

    def _symbolic_build(self: Any, *args: Any, **kwargs: Any) -> None:
        # Where Keras builds from the first batch of fit (JAX, torch) it hides any error but a ValueError in advice to
        # build the model.
        try:
            super()._symbolic_build(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            if isinstance(error.__context__, TypeError):
                raise error.__context__ from None
            raise

    def _checks(self: Any, who: str) -> Checks:
        return Checks(who, self.loss, self.sharded)

    def _checked(self: Any, given: dict[str, Any], checks: Checks) -> dict[str, Any]:
        x = given["x"]
        self._check_schema(checks.who, x)
        if is_read_by_batch(x):
            return checked(given, checks, self.py_dataset)
        if isinstance(x, DataAdapter):
            return given
        check_rows(checks.who, x)
        check_ids(checks.who, x)
        y, sample_weight = checks.arrays(given["y"], given["sample_weight"])
        return {**given, "y": y, "sample_weight": sample_weight}

    def _check_schema(self: Any, who: str, x: Any) -> None:
        """`ValueError` where a split's dataset is of a log that the model was not made for."""
        ours, theirs = getattr(self, "schema", None), getattr(x, "schema", None)
        if isinstance(ours, Schema) and isinstance(theirs, Schema):
            check_same(who, ours, theirs)

    def _checked_batch(self: Any, who: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        check_rows(who, x)
        check_ids(who, x)
        return (x, *self._checks(who).arrays(y, sample_weight))


@contextlib.contextmanager
def _as_it_was_found(*checks: Checks) -> Iterator[None]:
    """Raise what was found wrong itself, rather than what a framework makes of it."""
    try:
        yield
    except Exception as error:
        found = next((one.error for one in checks if one.error is not None), None)
        if found is None or found is error:
            raise
        raise found from None


def has_no_rows(x: Any) -> bool:
    """Whether a batch is a dict of arrays that are all empty."""
    return isinstance(x, Mapping) and bool(x) and all(np.ndim(v) and len(v) == 0 for v in x.values())


def check_rows(who: str, x: Any) -> None:
    """`ValueError` where a batch has no rows."""
    if has_no_rows(x):
        raise ValueError(f"{who}: the batch has no rows; give at least one.")


def check_ids(who: str, x: Any) -> None:
    """Refuse ids that are sparse or ragged, and inputs with masked values: Keras would make numbers of what is not there.

    Raises:
        TypeError: arrays of ids are sparse or ragged; some would be filled with zeros, which are ids.
        ValueError: masked values, whose masks would be dropped.
    """
    if isinstance(x, DataAdapter) or is_read_by_batch(x):
        return
    for leaf in x.values() if isinstance(x, Mapping) else x if isinstance(x, (list, tuple)) else [x]:
        if np.ma.is_masked(leaf):
            raise ValueError(f"{who}: an input has masked values; fill them, ids with -1.")
        if "int" in str(getattr(leaf, "dtype", "")):
            check_dense(f"{who}: an input of ids", leaf)

"""`fit`, `evaluate` and `predict`: what is checked and prepared around Keras's own."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import CACHED_EVALUATION, DataAdapter
from keras_dlrm.embeddings.inputs import check_dense
from keras_dlrm.models.labels import Checks
from keras_dlrm.models.not_finite import watched
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.part import Part
from keras_dlrm.step import SparseStep
from keras_dlrm.step.checked import bound_arguments, checked, is_read_by_batch
from keras_dlrm.support.arguments import integer

# Of Keras's methods tools see the parameters, and nothing else.
_signature_of = functools.partial(functools.wraps, assigned=(), updated=())


class CheckedTraining(SparseStep):
    """`fit`, `evaluate`, `predict` and their like of one batch: around Keras's own, named steps in one order.

    First the arguments are checked: what trains, the labels and the sample weights in whatever form they come (arrays, lists,
    frames and tensors before anything is read, what comes batch by batch as each batch is read). Then the backend prepares the
    data (`Step.prepared`), and Keras runs (`Step.running`).
    """

    #: What `predict` gives for a batch without rows; `None` leaves that to Keras.
    prediction_of_no_rows: np.ndarray | None = None

    @_signature_of(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `keras.Model.fit` does.

        Raises:
            TypeError: labels or sample weights that are not numbers.
            ValueError: arrays without rows; missing labels; labels outside [0, 1] for one of Keras's own binary
                cross-entropies, or that are not finite for another loss of Keras's; sample weights that are negative or not
                finite; the split of another log than the model is for; gradients are to be accumulated over batches whose size
                cannot be seen beforehand; something was frozen or unfrozen after `compile`; processes have different initial
                weights; the loss or a weight became NaN or infinite (`NotFinite`), unless `stops_when_not_finite` is false or
                `callbacks` has a `TerminateOnNaN`.
        """
        arguments = bound_arguments(keras.Model.fit, self, args, kwargs)
        self._check_call("fit", arguments, "batch_size", "validation_batch_size")
        self.check_training(arguments["x"], arguments["batch_size"])
        if isinstance(arguments["x"], Part) and arguments["class_weight"] is not None:
            # Rows that fill up a part have a sample weight, alongside which Keras takes no weights of classes.
            arguments |= {"x": arguments["x"].weighted(arguments["class_weight"]), "class_weight": None}
        checks, of_validation = self._checks("fit"), self._checks("fit: validation_data")
        checks.class_weight(arguments["class_weight"])
        arguments = self._checked(arguments, checks)
        if arguments["validation_data"] is not None:
            arguments["validation_data"] = self._checked_validation(arguments["validation_data"], of_validation)
        arguments = self.prepared("fit", arguments)
        with watched(self, arguments["callbacks"]) as callbacks, _first_error(checks, of_validation), self.running():
            return super().fit(**{**arguments, "callbacks": callbacks})

    @_signature_of(keras.Model.evaluate)
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does; raises as `fit` does."""
        arguments = bound_arguments(keras.Model.evaluate, self, args, kwargs)
        self._check_call("evaluate", arguments, "batch_size")
        checks = self._checks("evaluate")
        if not arguments.get(CACHED_EVALUATION):  # within `fit`, which has checked it
            arguments = self._checked(arguments, checks)
        with _first_error(checks), self.running():
            return super().evaluate(**self.prepared("evaluate", arguments))

    @_signature_of(keras.Model.predict)
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict as `keras.Model.predict` does; models of `kd.models` also take a batch without rows.

        Raises:
            TypeError: ids that are sparse or ragged.
            ValueError: the split of another log, whose ids or dense values mean something else.
        """
        arguments = bound_arguments(keras.Model.predict, self, args, kwargs)
        check_batch_size("predict", arguments, "batch_size")
        if self.prediction_of_no_rows is not None and has_no_rows(arguments["x"]):
            return self.prediction_of_no_rows.copy()
        self._check_schema("predict", arguments["x"])
        self._check_inputs("predict", arguments["x"])
        if isinstance(arguments["x"], keras.utils.PyDataset):
            arguments["x"] = self.py_dataset(arguments["x"])
        with self.running():
            return super().predict(**self.prepared("predict", arguments))

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Train as `keras.Model.train_on_batch` does; raises as `fit` does."""
        self._check_call("train_on_batch", {})
        self.check_training(None, batch=x)
        x, y, sample_weight = self._checked_batch("train_on_batch", x, y, sample_weight)
        with self.running():
            return super().train_on_batch(*self.prepared_batch(x, y, sample_weight, class_weight), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Evaluate as `keras.Model.test_on_batch` does; raises as `fit` does."""
        self._check_call("test_on_batch", {})
        x, y, sample_weight = self._checked_batch("test_on_batch", x, y, sample_weight)
        with self.running():
            return super().test_on_batch(*self.prepared_batch(x, y, sample_weight, None)[:3], return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict as `keras.Model.predict_on_batch` does; raises as `predict` does."""
        self._check_inputs("predict_on_batch", x)
        return super().predict_on_batch(x)

    def check_training(self, x: Any, batch_size: int | None = None, batch: Any = None) -> None:
        """Raise where the model cannot train now on data `x` of `fit`, or on a `batch` of `train_on_batch`."""
        raise NotImplementedError

    def check_arrays(self, who: str, x: Mapping[str, Any]) -> None:
        """Raise where arrays by name are not what the model takes; subclasses that know say so."""

    def build_symbolically(self, *args: Any, **kwargs: Any) -> None:
        # Where Keras builds from the first batch of fit (JAX, torch) it hides any error but a ValueError in advice to
        # build the model.
        try:
            super().build_symbolically(*args, **kwargs)
        except RuntimeError as error:
            if isinstance(error.__context__, TypeError):
                raise error.__context__ from None
            raise

    def _check_call(self, who: str, arguments: Mapping[str, Any], *sizes: str) -> None:
        if not self.compiled:
            raise ValueError(f"{who}: {self.name} is not compiled; call its compile, with an optimizer and a loss, before.")
        check_batch_size(who, arguments, *sizes)

    def _check_inputs(self, who: str, x: Any) -> None:
        if isinstance(x, DataAdapter) or is_read_by_batch(x):
            return
        check_ids(who, x)
        if isinstance(x, Mapping):
            self.check_arrays(who, x)
        check_alike(who, x)

    def _checks(self, who: str) -> Checks:
        return Checks(who, self.loss, self.sharded)

    def _checked(self, arguments: dict[str, Any], checks: Checks) -> dict[str, Any]:
        x = arguments["x"]
        self._check_schema(checks.who, x)
        if is_read_by_batch(x):
            return checked(arguments, checks, self.py_dataset)
        if isinstance(x, DataAdapter):
            return arguments
        check_rows(checks.who, x)
        self._check_inputs(checks.who, x)
        y, sample_weight = checks.arrays(arguments["y"], arguments["sample_weight"])
        return {**arguments, "y": y, "sample_weight": sample_weight}

    def _checked_validation(self, data: Any, checks: Checks) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, y, sample_weight = self._checked({"x": x, "y": y, "sample_weight": sample_weight}, checks).values()
        return x if y is None and sample_weight is None else (x, y, sample_weight)

    def _check_schema(self, who: str, x: Any) -> None:
        """`ValueError` where a split's dataset is of a log that the model was not made for, `TypeError` for raw rows."""
        ours, theirs = getattr(self, "schema", None), getattr(x, "schema", None)
        if isinstance(ours, Schema) and hasattr(x, "__arrow_c_stream__"):
            fix = "use preprocessor.transform(frame) of the log's preprocessor, or schema.pack(frame) where the columns hold ids"
            raise TypeError(f"{who}: x is a {type(x).__name__}, rows of named columns; the model takes packed batches: {fix}.")
        if isinstance(ours, Schema) and isinstance(theirs, Schema):
            check_same(who, ours, theirs)

    def _checked_batch(self, who: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        check_rows(who, x)
        self._check_inputs(who, x)
        return (x, *self._checks(who).arrays(y, sample_weight))


@contextlib.contextmanager
def _first_error(*checks: Checks) -> Iterator[None]:
    """Raise the error of a check itself, rather than what a framework makes of it."""
    try:
        yield
    except Exception as error:
        first = next((each.error for each in checks if each.error is not None), None)
        if first is None or first is error:
            raise
        raise first from None


def has_no_rows(x: Any) -> bool:
    """Whether a batch is a dict of arrays that are all empty."""
    return isinstance(x, Mapping) and bool(x) and all(np.ndim(v) and len(v) == 0 for v in x.values())


def check_rows(who: str, x: Any) -> None:
    """`ValueError` where a batch has no rows."""
    if has_no_rows(x):
        raise ValueError(f"{who}: the batch has no rows; give at least one.")


def check_ids(who: str, x: Any) -> None:
    """`TypeError` for sparse or ragged ids: some would be filled with zeros, which are ids. `ValueError` for masked values."""
    for leaf in x.values() if isinstance(x, Mapping) else x if isinstance(x, (list, tuple)) else [x]:
        if np.ma.is_masked(leaf):
            raise ValueError(f"{who}: an input has masked values; fill them, ids with -1.")
        if "int" in str(getattr(leaf, "dtype", "")):
            check_dense(f"{who}: an input of ids", leaf)


def check_alike(who: str, x: Any) -> None:
    """`ValueError` where arrays by name have different numbers of rows."""
    rows = {name: v.shape[0] for name, v in x.items() if len(getattr(v, "shape", ()))} if isinstance(x, Mapping) else {}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{who}: the inputs have different numbers of rows, {rows}; they must have the same rows.")


def check_batch_size(who: str, arguments: Mapping[str, Any], *names: str) -> None:
    """`ValueError` for a number of rows of a batch that is none."""
    for name in names:
        if arguments[name] is not None:
            integer(who, name, arguments[name])

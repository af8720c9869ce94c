"""Labels and sample weights are checked in every form and on every way into a step."""

from __future__ import annotations

import decimal

import keras
import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import keras_dlrm as kd
from keras_dlrm.models.labels import Checks
from keras_dlrm.step.batch import FILLER

BACKEND = keras.backend.backend()
pandas = pytest.importorskip("pandas")
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10)])
X = {"dense": np.linspace(0, 1, 8, dtype="float32")[:, None], "sparse": np.arange(8, dtype="int32")[:, None]}
Y = np.array([0, 1, 1, 0, 1, 0, 0, 1], "float32")
FORMS = {
    "array": np.asarray,
    "column": lambda values: np.asarray(values)[:, None],
    "float64": lambda values: np.asarray(values, "f8"),
    "list": lambda values: [float(v) for v in values],
    "objects": lambda values: np.array([*map(float, values)], object),
    "decimals": lambda values: [decimal.Decimal(str(v)) for v in values],
    "series": lambda values: pandas.Series(values, index=range(3, 11)),
    "nullable series": lambda values: pandas.Series(values).astype("Float64"),
    "frame": lambda values: pandas.DataFrame({"click": values}),
    "polars": lambda values: polars.Series(values),
    "polars frame": lambda values: polars.DataFrame({"click": values}),
    "tensor": ops.convert_to_tensor,
    "another framework's tensor": lambda values: another(values),
}


def another(values):
    """A tensor of a framework that is not the backend."""
    if BACKEND == "torch":
        return pytest.importorskip("jax").numpy.asarray(values)
    return pytest.importorskip("torch").tensor(np.asarray(values), requires_grad=True)


@pytest.fixture(scope="module")
def model():
    made = kd.models.DLRM(SCHEMA, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0)
    made.compile(keras.optimizers.SGD(0.1), loss="binary_crossentropy")
    return made


def calls(model):
    yield "fit", lambda y, w=None: model.fit(X, y, sample_weight=w, verbose=0)
    yield "fit: validation_data", lambda y, w=None: model.fit(X, Y, validation_data=(X, y, w), verbose=0)
    yield "evaluate", lambda y, w=None: model.evaluate(X, y, sample_weight=w, verbose=0)
    yield "train_on_batch", lambda y, w=None: model.train_on_batch(X, y, w)
    yield "test_on_batch", lambda y, w=None: model.test_on_batch(X, y, sample_weight=w)


@pytest.mark.parametrize("form", FORMS)
def test_wrong_labels_and_weights_in_memory_are_refused_before_a_step_and_the_row_is_named(model, form):
    weights = model.get_weights()
    for who, call in calls(model):
        for wrong in (2.0, -1.0, np.nan):
            y = Y.copy()
            y[5] = wrong
            with pytest.raises(
                ValueError, match=rf"^{who}: label (nan|<NA>|{wrong}) in row 5( is no|; a binary .* in \[0, 1\])"
            ):
                call(FORMS[form](y))
        for wrong in (-0.5, np.inf, np.nan):
            w = np.ones(8, "float32")
            w[2] = wrong
            with pytest.raises(
                ValueError, match=rf"^{who}: sample weight (nan|<NA>|{wrong}|Inf.*) in row 2( is no|; .*>= 0)"
            ):
                call(Y, FORMS[form](w))
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_right_labels_and_weights_train_alike_in_every_form(model, form):
    expected = model.evaluate(X, Y, sample_weight=Y + 0.5, verbose=0)
    assert model.evaluate(X, FORMS[form](Y), sample_weight=FORMS[form](Y + 0.5), verbose=0) == pytest.approx(expected)
    model.fit(X, FORMS[form](Y), validation_split=0.5, verbose=0)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (["1", "0"], TypeError, "the labels have dtype <U1; they must be numbers"),
        ([1, "0"], TypeError, "dtype <U"),
        (np.array([1, "no"], object), TypeError, "label 'no' in row 1 is not a number; make numbers of the texts"),
        ([1, None], ValueError, "label None in row 1 is not a number; drop rows"),
        (pandas.Series([1, None], dtype="Int64"), ValueError, "label (<NA>|nan) in row 1"),
        ([pandas.NaT, 1], ValueError, "label NaT in row 0 is not a number"),
        (pandas.NaT, TypeError, "the labels have dtype object"),
        (np.ma.masked_array([1, 0], [False, True]), ValueError, "label in row 1 is masked"),
        (polars.Series([True, None]), ValueError, "label None in row 1"),
        (np.array([1, 2], "m8[s]"), TypeError, "dtype timedelta64"),
        (pandas.Series(["yes", "no"]).astype("category"), TypeError, "label 'yes' in row 0"),
        ([[1], [1, 0]], ValueError, "the labels, a list, make no array of numbers"),
        (np.array([1j]), TypeError, "dtype complex128"),
    ],
    ids=str,
)
def test_what_is_no_number_is_no_label(values, error, words):
    with pytest.raises(error, match=words):
        Checks("fit", "mse").arrays(values, None)
    with pytest.raises(error, match=words.replace("label", "sample weight")):
        Checks("fit", "mse").arrays(None, values)


@pytest.mark.neutral
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=5),
    dtype=st.sampled_from(["float64", "float32", "float16", "object"]),
    filler=st.booleans(),
)
def test_what_each_loss_allows(values, dtype, filler):
    with np.errstate(over="ignore"):
        array = np.array(values, "float32").astype(dtype)
        numbers = array.astype("float64")

    def refused(loss, y=None, w=None):
        try:
            Checks("fit", loss, filler).arrays(y, w)
        except ValueError as error:
            return str(error)
        return ""

    for loss, wrong in (
        ("bce", ~((numbers >= 0) & (numbers <= 1))),
        (keras.losses.BinaryFocalCrossentropy(), ~((numbers >= 0) & (numbers <= 1))),
        ("mse", ~np.isfinite(numbers)),
        (lambda y, p: p, np.zeros(len(numbers), bool)),
    ):
        assert (f" in row {wrong.argmax()};" in refused(loss, array)) == wrong.any() == bool(refused(loss, array))
    wrong = ~((numbers >= 0) & (numbers < np.inf) | (filler & (numbers == FILLER)))
    assert (f" in row {wrong.argmax()};" in refused("mse", w=array)) == wrong.any()


@pytest.mark.neutral
def test_each_output_has_its_loss():
    y = {"click": np.array([0, 1]), "time": np.array([3.5, 8])}
    checks = Checks("fit", {"click": "bce", "time": "mse"})
    checks.arrays(y, {"click": np.ones(2), "time": None})
    with pytest.raises(ValueError, match=r"label of output 'click', 8\.0 in row 1; a binary"):
        checks.arrays({"click": y["time"] - [3, 0], "time": y["click"]}, None)
    with pytest.raises(ValueError, match="label of output 1, nan in row 0; labels must be finite"):
        Checks("fit", ["bce", "mse"]).arrays([y["click"], y["time"] * np.nan], None)
    with pytest.raises(ValueError, match=r"class_weight\[1\]=nan"):
        checks.class_weight({0: 1.0, 1: np.nan})


class Batches(keras.utils.PyDataset):
    def __init__(self, labels, weights, **options):
        super().__init__(**options)
        self.columns = [labels] if weights is None else [labels, weights]

    def __len__(self):
        return 4

    def __getitem__(self, i):
        part = slice(2 * i, 2 * i + 2)
        return ({name: a[part] for name, a in X.items()}, *(column[part] for column in self.columns))


def generator(labels, weights):
    data = Batches(labels, weights)
    return (data[i] for i in range(4))


def tf_data(labels, weights):
    tf = pytest.importorskip("tensorflow")
    data = Batches(labels, weights)
    return tf.data.Dataset.from_tensor_slices((X, *data.columns)).batch(2).prefetch(1)


def loader(labels, weights):
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return ({n: a[i] for n, a in X.items()}, *(column[i] for column in Batches(labels, weights).columns))

    return torch.utils.data.DataLoader(Rows(), batch_size=2)


SOURCES = {
    "pydataset": Batches,
    "workers": lambda *columns: Batches(*columns, workers=2),
    "generator": generator,
    "tf.data": tf_data,
    "loader": loader,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_wrong_labels_and_weights_of_a_batch_stop_before_its_step_and_the_batch_is_named(model, source):
    make, ones = SOURCES[source], np.ones(8, "float32")
    start = model.get_weights()
    for number, wrong in enumerate((2.0, np.nan)):
        y, w = Y.copy(), ones.copy()
        y[3], w[3] = wrong, (-1.0, np.inf)[number]
        for call, who in (
            (lambda data: model.fit(data, shuffle=False, verbose=0), "fit"),
            (lambda data: model.evaluate(data, verbose=0), "evaluate"),
            (lambda data: model.fit(X, Y, validation_data=data, verbose=0), "fit: validation_data"),
        ):
            model.set_weights(start)
            with pytest.raises(ValueError, match=rf"^{who}: label {wrong} in row 1 of batch 1; "):
                call(make(y, ones))
            assert all(np.isfinite(a).all() for a in model.get_weights())
        model.set_weights(start)
        with pytest.raises(ValueError, match=rf"^fit: sample weight {w[3]} in row 1 of batch 1; "):
            model.fit(make(Y, w), shuffle=False, verbose=0)
        got = np.concatenate([a.ravel() for a in model.get_weights()])
        # What came before is trained, or nothing where a source is looked into beforehand; what is wrong is not.
        model.set_weights(start)
        before = np.concatenate([a.ravel() for a in start])
        model.train_on_batch(*Batches(Y, ones)[0])
        after = np.concatenate([a.ravel() for a in model.get_weights()])
        assert np.abs(got - after).max() < 1e-7 or np.array_equal(got, before)
    history = model.fit(make(Y, ones), steps_per_epoch=4, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    model.set_weights(start)


def test_text_and_ragged_labels_of_a_tf_dataset_are_refused_by_their_kind(model):
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(TypeError, match="the labels have dtype string"):
        model.fit(tf.data.Dataset.from_tensor_slices((X, ["1"] * 8)).batch(2), verbose=0)
    ragged = tf.RaggedTensor.from_row_lengths(Y, [1] * 8)
    with pytest.raises(TypeError, match="the labels are a RaggedTensor"):
        model.fit(tf.data.Dataset.from_tensor_slices((X, ragged)).batch(2), verbose=0)
    with pytest.raises(TypeError, match="the labels are a RaggedTensor"):
        model.train_on_batch(X, ragged)


@pytest.mark.parametrize("form", [list, pandas.Series, polars.Series])
def test_generators_may_give_labels_and_weights_in_any_form(model, form):
    def batches(form):
        yield from ((X, form(Y.tolist()), form((Y + 0.5).tolist())) for _ in range(2))

    assert model.evaluate(batches(form), steps=2, verbose=0) == pytest.approx(
        model.evaluate(batches(np.array), steps=2, verbose=0)
    )


@pytest.mark.parametrize(
    ("y", "weight", "error", "words"),
    [
        (np.stack([Y, Y], 1), None, ValueError, r"labels have shape \(8, 2\)"),
        (Y, {"click": Y}, TypeError, "sample weights are a dict with .*click"),
        ({"click": Y}, None, TypeError, "labels are a dict with .*click"),
        (1, None, ValueError, "the labels are 1; give an array"),
        (Y, 2.0, ValueError, "the sample weights are 2.0; give an array"),
    ],
)
def test_labels_and_weights_that_are_not_one_number_a_row_are_refused_before_a_step(model, y, weight, error, words):
    before = model.evaluate(X, Y[:, None], verbose=0)
    for _, call in calls(model):
        with pytest.raises(error, match=words):
            call(y, weight)
    assert model.evaluate(X, Y, verbose=0) == before

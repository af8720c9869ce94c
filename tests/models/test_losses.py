"""A loss is the loss that was given, through compile, save and load; subclassed models train through what they override."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_dlrm as kd

SCHEMA = kd.Schema(categorical=[kd.Categorical("a", 9), kd.Categorical("b", 7, hotness=2)])
RNG = np.random.default_rng(0)
IDS = RNG.integers(-1, 7, (12, 3)).astype("int32")
X = {"sparse": IDS}
Y = RNG.integers(0, 2, (12, 1)).astype("float32")
# Tracing is most of what a step on TensorFlow takes, and is of no interest here.
EAGER = keras.backend.backend() == "tensorflow"
KERAS = keras.losses.binary_crossentropy


def bce(y, p):
    return 5 * KERAS(y, p)


def binary_crossentropy(y, p):
    return ops.mean(ops.square(y - p), axis=-1)


class BinaryCrossentropy(keras.losses.Loss):
    def call(self, y, p):
        return ops.mean(ops.abs(y - p), axis=-1)


class Overriding(keras.losses.BinaryCrossentropy):
    def call(self, y, p):
        return ops.mean(ops.square(y - p), axis=-1)


class Weighing(keras.losses.BinaryCrossentropy):
    def __init__(self, factor, name="weighing"):
        super().__init__(name=name)
        self.factor = factor

    def call(self, y, p):
        return self.factor * super().call(y, p)

    def get_config(self):
        return {"factor": self.factor, "name": self.name}


OWN = {"bce": bce, "binary_crossentropy": binary_crossentropy}
OWN |= {kind.__name__: kind for kind in (BinaryCrossentropy, Overriding, Weighing)}


def make(kind=kd.models.DLRM, bias=0.0):
    model = kind(SCHEMA, embedding_dim=3, top_mlp=[4, 1], seed=1)
    model.top_mlp.dense_layers[-1].bias.assign([bias])
    return model


def log_loss(p, y=Y):
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def squares(p):
    return (Y - p) ** 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "expected", "loads"),
    [
        (bce, lambda p: 5 * log_loss(p), "by name"),
        (binary_crossentropy, squares, "by name"),
        (BinaryCrossentropy(), lambda p: np.abs(Y - p), "by name"),
        (BinaryCrossentropy, lambda p: np.abs(Y - p), "by name"),
        (Overriding(), squares, "by name"),
        (Weighing(3.0), lambda p: 3 * log_loss(p), "by name"),
        (functools.partial(KERAS, label_smoothing=0.2), lambda p: log_loss(p, 0.8 * Y + 0.1), "never"),
        (lambda y, p: 7 * KERAS(y, p), lambda p: 7 * log_loss(p), "never"),
        (
            keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
            lambda p: log_loss(p, 0.8 * Y + 0.1),
            "alone",
        ),
        ("binary_focal_crossentropy", lambda p: (1 - np.where(Y == 1, p, 1 - p)) ** 2 * log_loss(p), "alone"),
    ],
    ids=["bce", "function", "class's name", "class", "call", "init", "partial", "lambda", "smoothing", "focal"],
)
def test_a_loss_is_the_loss_that_was_given_and_is_so_again_after_loading(loss, expected, loads, tmp_path):
    model = make()
    model.compile("sgd", loss=loss, run_eagerly=EAGER)
    assert model.loss is loss or type(model.loss) is loss
    p = model.predict(X, verbose=0).astype("f8")
    assert model.test_on_batch(X, Y) == pytest.approx(expected(p).mean(), rel=1e-5)
    if loads == "never":
        return
    model.save(tmp_path / "m.keras")
    if loads == "by name":
        # Not another loss in silence: Keras has some of these names, too.
        with pytest.raises(TypeError, match="Could not locate"):
            keras.saving.load_model(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", custom_objects=OWN)
    assert type(loaded.loss) is type(loss() if loss is BinaryCrossentropy else loss)
    assert loaded.test_on_batch(X, Y) == pytest.approx(expected(p).mean(), rel=1e-5)


def test_a_loss_of_ones_own_in_a_model_of_ones_own_does_not_load_as_another(tmp_path):
    ids = keras.Input((3,), dtype="int32")
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1)(ids)
    outputs = {name: keras.layers.Dense(1, "sigmoid", name=name)(pooled) for name in ("click", "buy")}
    model = kd.models.SparseModel(ids, outputs)
    model.compile("sgd", loss={"click": "mse", "buy": bce})
    model.save(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="Could not locate function 'bce'"):
        keras.saving.load_model(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", custom_objects=OWN)
    assert dict(loaded.loss) == {"click": "mse", "buy": bce}


class Halving(kd.models.DLRM):
    """Its `call` knows nothing of logits."""

    def call(self, inputs, training=None):
        return 0.5 * super().call(inputs, training=training)


class PassingOn(kd.models.DLRM):
    """Its `call` takes part in what the models do with logits."""

    def call(self, inputs, training=None, return_logits=False):
        return super().call(inputs, training, return_logits)


class Tripling(kd.models.DLRM):
    """Its `compute_loss` is as it was before Keras had `training`."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        self.seen = y_pred
        return 3 * super().compute_loss(x, y, y_pred, sample_weight)


def test_subclasses_train_through_what_they_override():
    for kind, bias, expected in (
        (Halving, 0.0, lambda z: log_loss(0.5 / (1 + np.exp(-z)))),
        # A cross-entropy that is computed from probabilities ends at 16.
        (PassingOn, 60.0, lambda z: np.logaddexp(0, z) - Y * z),
        (Tripling, 60.0, lambda z: 3 * (np.logaddexp(0, z) - Y * z)),
    ):
        model = make(kind, bias)
        model.compile(keras.optimizers.SGD(0.0), loss="bce", run_eagerly=EAGER)
        z = ops.convert_to_numpy(model.logits({"sparse": ops.convert_to_tensor(IDS)})).astype("f8")
        for step in (model.train_on_batch, model.test_on_batch):
            assert step(X, Y) == pytest.approx(expected(z).mean(), rel=1e-5), kind.__name__


def test_compute_loss_of_ones_own_predictions_is_the_given_loss_of_these():
    model = make()
    model.compile("sgd", loss="bce")
    p = np.full((12, 1), 0.25, "float32")
    got = model.compute_loss(y=ops.convert_to_tensor(Y), y_pred=ops.convert_to_tensor(p))
    assert float(got) == pytest.approx(log_loss(p.astype("f8")).mean(), rel=1e-5)


class Unbuilt(kd.models.SparseModel):
    def __init__(self):
        super().__init__()
        self.tables = kd.layers.EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1)
        self.top = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.RandomNormal(seed=2))

    def call(self, ids):
        return self.top(self.tables(ids))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["fit", "train_on_batch", "evaluate"])
def test_a_subclass_without_build_trains_from_its_first_call_on(first):
    ends = []
    for called_first in (True, False):
        model = Unbuilt()
        if called_first:
            model(IDS[:2])
        model.compile(keras.optimizers.SGD(0.1), loss="bce")
        if not called_first and first == "evaluate":
            model.evaluate(IDS, Y, verbose=0)
        if first == "train_on_batch":
            model.train_on_batch(IDS, Y)
        else:
            model.fit(IDS, Y, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("reduction", [None, "none"])
def test_a_loss_without_reduction_is_refused(reduction):
    model = kd.models.DLRM(SCHEMA, 4, None, [1])
    for loss in (keras.losses.BinaryCrossentropy(reduction=reduction), [keras.losses.MeanSquaredError(reduction)]):
        with pytest.raises(ValueError, match="has no reduction, and training needs one number"):
            model.compile("sgd", loss=loss)

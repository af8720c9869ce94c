"""Whatever ends a loop early, the model has all its weights and trains on."""

import os
import signal

import keras
import numpy as np
import pytest

import keras_dlrm as kd

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 10)])
draw = np.random.default_rng(0)
X = {"dense": draw.normal(size=(16, 1)).astype("float32"), "sparse": draw.integers(0, 10, (16, 1))}
Y = draw.integers(0, 2, 16).astype("float32")


class Interrupt(keras.callbacks.Callback):
    def __init__(self, at, batch):
        super().__init__()
        self.at, self.batch = at, batch

    def set_model(self, model):
        super().set_model(model)
        for name in ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end",
                     "on_predict_batch_begin", "on_predict_batch_end"):  # fmt: skip
            setattr(self, name, lambda batch, logs=None, name=name: self.meet(name, batch))

    def meet(self, name, batch):
        if name == self.at and batch >= self.batch:
            raise KeyboardInterrupt


class Batches(keras.utils.PyDataset):
    """Two batches, of which one cannot be read."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __len__(self):
        return 2

    def __getitem__(self, i):
        if i == self.bad:
            raise OSError("the disk is gone")
        return {name: array[8 * i : 8 * i + 8] for name, array in X.items()}, Y[8 * i : 8 * i + 8]


@pytest.fixture(scope="module")
def model():
    model = kd.models.DLRM(SCHEMA, 4, [4], [4, 1], seed=0)
    model.compile("adagrad", loss="binary_crossentropy", metrics=["auc"])
    model.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y))
    return model


def state(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*model.variables, *model.optimizer.variables]]


def assert_whole(model, before=None):
    now = state(model)
    if before is not None:
        weights = len(model.weights)
        for a, b in zip(before[:weights], now[:weights], strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isfinite(model.train_on_batch(X, Y)).all()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("way", ["train", "test", "predict", "validation"])
@pytest.mark.parametrize("at", ["begin", "end"])
def test_an_interrupt_in_a_callback_leaves_the_model_whole(model, way, at, batch):
    name = "test" if way == "validation" else way
    options = {"batch_size": 8, "verbose": 0, "callbacks": [Interrupt(f"on_{name}_batch_{at}", batch)]}
    before = None if way in ("train", "validation") else state(model)
    with pytest.raises(KeyboardInterrupt):
        if way == "train":
            model.fit(X, Y, **options)
        elif way == "validation":
            model.fit(X, Y, validation_data=(X, Y), **options)
        elif way == "test":
            model.evaluate(X, Y, **options)
        else:
            model.predict(X, **options)
    assert_whole(model, before)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("way", ["fit", "evaluate", "predict"])
def test_data_that_cannot_be_read_leave_the_model_whole(model, way, bad):
    before = None if way == "fit" else state(model)
    with pytest.raises(Exception, match="the disk is gone"):
        getattr(model, way)(Batches(bad), verbose=0)
    assert_whole(model, before)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere a step writes to the variables themselves")
def test_ctrl_c_waits_for_the_end_of_a_step(model):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
    step = model.train_function

    def sent(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    before = state(model)
    whole = model.looped(lambda state, data: sent(state, data))
    with pytest.raises(KeyboardInterrupt), model.running():
        whole(
            model.values_of_variables(
                trainable_variables=True, non_trainable_variables=True, optimizer_variables=True, metrics_variables=True,
                purge_model_variables=True,
            ),
            iter([iter([(model.narrowing.arrays(X), Y, None)])]),
        )  # fmt: skip
    assert any((a != b).any() for a, b in zip(before, state(model), strict=True))
    assert_whole(model)

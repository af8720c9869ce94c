"""Gradients accumulated over batches: the updates of one large batch, and the room that rows need for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.sparse_models import AGE, IDS, SCHEMA, X, Y, functional

from keras_dlrm import optimizers
from keras_dlrm.embeddings.lookup import CountingTape
from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.models import SparseModel

ACCUMULATED = {
    "sgd": lambda k: (keras.optimizers.SGD(0.1, gradient_accumulation_steps=k), None),
    "adagrad": lambda k: (keras.optimizers.Adagrad(0.1, gradient_accumulation_steps=k), None),
    "rowwise": lambda k: (keras.optimizers.Adam(0.01, gradient_accumulation_steps=k), optimizers.RowwiseAdagrad(0.1)),
    "adam, l2": lambda k: (keras.optimizers.Adam(0.01, gradient_accumulation_steps=k), optimizers.Adam(0.01, l2=0.1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCUMULATED)
def test_batches_accumulated_are_one_batch(name):
    """Three batches of 8 rows to an update make the updates of batches of 24, whose loss is the mean of theirs."""
    ends = []
    for steps, batch_size in ((None, 24), (3, 8)):
        model = functional()
        dense, rows = ACCUMULATED[name](steps)
        model.compile(dense, loss="binary_crossentropy", embedding_optimizer=rows)
        model.fit(X, Y, batch_size=batch_size, epochs=4, shuffle=False, verbose=0)
        ends.append(model.get_weights())
        assert int(keras.ops.convert_to_numpy(model.optimizer.rows.iterations)) == 4
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_between_updates_nothing_moves_and_a_saved_model_goes_on_in_the_middle(tmp_path):
    model = functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), loss="binary_crossentropy")
    start = model.get_weights()
    part = {name: values[:8] for name, values in X.items()}
    model.train_on_batch(part, Y[:8])
    for a, b in zip(model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(a, b)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    ends = []
    for each in (model, loaded):
        each.train_on_batch({name: values[8:14] for name, values in X.items()}, Y[8:14])
        ends.append(each.get_weights())
    assert max(np.abs(a - b).max() for a, b in zip(ends[0], start, strict=True)) > 1e-4
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_accumulation_says_what_it_needs():
    model = functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), loss="binary_crossentropy")
    with pytest.raises(ValueError, match="size of a batch, which generator does not show"):
        model.fit((pair for pair in [(X, Y)]), verbose=0)
    model.fit(X, Y, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="largest batch first"):
        model.fit(X, Y, batch_size=16, verbose=0)


def test_accumulation_that_differs_between_the_two_optimizers_is_refused():
    rows = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match="embedding_optimizer: gradient_accumulation_steps=4"):
        functional().compile(keras.optimizers.SGD(0.1), loss="mse", embedding_optimizer=rows)
    model = functional()
    dense = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model.compile(dense, loss="mse", embedding_optimizer=rows)
    model.fit(X, Y, batch_size=8, verbose=0)


@pytest.mark.slow
def test_accumulation_has_room_for_a_collection_that_is_called_twice():
    a, b, ids = (keras.Input((4,), dtype="int32", name=name) for name in ("a", "b", "ids"))
    inner = keras.Model(ids, EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1, init_scale=0.1)(ids))
    kernel = keras.initializers.RandomNormal(seed=2)
    both = keras.layers.Dense(1, kernel_initializer=kernel)(keras.layers.Add()([inner(a), inner(b)]))
    model = SparseModel({"a": a, "b": b}, both)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), loss="mse")
    x = {"a": IDS, "b": np.ascontiguousarray(IDS[::-1])}
    before = model.predict(x, verbose=0)
    model.fit(x, Y, batch_size=8, shuffle=False, verbose=0)
    after = model.predict(x, verbose=0)
    assert np.abs(after - before).max() > 1e-3


def test_room_is_counted_once_and_not_in_every_batch(monkeypatch):
    counted = []
    count = CountingTape.lookup
    monkeypatch.setattr(CountingTape, "lookup", lambda self, table, ids: counted.append(1) or count(self, table, ids))
    model = functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), loss="mse")
    for _ in range(4):
        model.train_on_batch({"ids": IDS[:8], "age": AGE[:8]}, Y[:8])
    model.train_on_batch({"ids": IDS[:5], "age": AGE[:5]}, Y[:5])
    assert len(counted) == 1

"""Models of the user's own: functional, subclassed, saved, and the stock `keras.Model` alongside them."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from helpers.sparse_models import AGE, IDS, SCHEMA, X, Y, functional

from keras_dlrm import optimizers
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.models import SparseModel
from keras_dlrm.models.sparse_model import FunctionalSparseModel
from keras_dlrm.schema.schema import Categorical, Schema


@keras.saving.register_keras_serializable("tests")
class Subclassed(SparseModel):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embeddings = EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1, name="embeddings")
        kernel = keras.initializers.RandomNormal(seed=2)
        self.top = keras.layers.Dense(1, "sigmoid", kernel_initializer=kernel)

    def build(self, input_shape):
        self.embeddings.build((None, 4))
        self.top.build((None, 11))

    def call(self, inputs, training=None):
        pooled = self.embeddings(inputs["ids"], training=training)
        return self.top(keras.ops.concatenate([pooled, inputs["age"]], axis=1))


class Handed(SparseModel):
    """Hands inputs and outputs to its base."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.mark = 7


def trained(model, *compiled, **options):
    model.compile(*compiled, **{"loss": "binary_crossentropy", "metrics": ["auc"], **options})
    history = model.fit(X, Y, batch_size=10, epochs=3, shuffle=False, verbose=0).history
    return history, model.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [functional, Subclassed, lambda: functional(Handed)], ids=["functional", "sub", "both"]
)
@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_it_trains_like_the_stock_model_with_the_dense_optimizer(make, rule):
    dense = {
        "sgd": lambda: keras.optimizers.SGD(0.1),
        "adagrad": lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.1, epsilon=1e-7),
    }
    stock, expected = trained(functional(keras.Model), dense[rule]())
    history, weights = trained(make(), dense[rule]())
    np.testing.assert_allclose(history["loss"], stock["loss"], rtol=1e-5)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_only_rows_of_the_batch_have_slots_that_move():
    model = functional()
    trained(model, optimizers.Adagrad(0.1))
    slot = next(v for v in model.optimizer.rows.variables if v.shape == (55, 3))
    moved = np.abs(keras.ops.convert_to_numpy(slot.value)).max(axis=1) > 0
    assert set(np.flatnonzero(moved[:50])) == set(IDS[:, 0]) and moved[50:].all()


@pytest.mark.slow
def test_a_layer_called_twice_trains_like_one_with_twice_the_columns():
    """The gradients of one row from both calls are summed before the rule squares them."""
    columns = SCHEMA.categorical
    again = [dataclasses.replace(c, name=c.name + "2", table=c.table_name) for c in columns]
    doubled = Schema(categorical=[*columns, *again])

    def end(once):
        ids, other = (keras.Input((4,), dtype="int32", name=name) for name in ("ids", "other"))
        layer = EmbeddingCollection(doubled if once else SCHEMA, 3, concatenate=True, seed=1)
        if once:
            pooled = layer(keras.layers.Concatenate()([ids, other]))
        else:
            pooled = keras.layers.Concatenate()([layer(ids), layer(other)])
        dense = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.RandomNormal(seed=2))
        model = SparseModel({"ids": ids, "other": other}, dense(pooled))
        model.compile(optimizers.Adagrad(0.1), loss="binary_crossentropy")
        model.fit({"ids": IDS, "other": IDS[::-1]}, Y, batch_size=12, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    for a, b in zip(end(True), end(False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("make", [functional, Subclassed], ids=["functional", "subclassed"])
def test_saved_and_loaded_it_goes_on_with_the_same_losses(make, tmp_path):
    model = make()
    trained(model, optimizers.Adam(0.01), embedding_optimizer=optimizers.RowwiseAdagrad(0.05))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, SparseModel)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)
    losses = [m.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_subclass_that_is_functional_leaves_the_others_as_they_are():
    both = functional(Handed)
    assert both.mark == 7 and both.predict(X, verbose=0).shape == (24, 1)
    assert isinstance(both, Handed) and isinstance(both, FunctionalSparseModel)
    assert not issubclass(Handed, FunctionalSparseModel)


@keras.saving.register_keras_serializable("tests")
class OwnGraph(SparseModel):
    """Makes the inputs and outputs that it hands to its base; Keras knows it by name."""

    def __init__(self, **kwargs):
        ids = keras.Input((4,), dtype="int32", name="ids")
        pooled = EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1)(ids)
        super().__init__(ids, keras.layers.Dense(1, activation="sigmoid")(pooled), **kwargs)


@pytest.mark.slow
def test_a_registered_subclass_that_is_functional_is_saved_and_loaded(tmp_path):
    model = OwnGraph()
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is type(model) and isinstance(model, FunctionalSparseModel)
    np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0))


def test_a_subclass_with_a_call_of_its_own_is_no_functional_model():
    assert Subclassed().__class__.__mro__[1] is SparseModel


@pytest.mark.slow
def test_other_losses_outputs_and_sample_weights_are_keras_own():
    ids = keras.Input((4,), dtype="int32", name="ids")
    pooled = EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1)(ids)
    outputs = {
        "click": keras.layers.Dense(1, "sigmoid", name="click")(pooled),
        "time": keras.layers.Dense(1, name="time")(pooled),
    }
    model = SparseModel(ids, outputs)
    model.compile("sgd", loss={"click": "binary_crossentropy", "time": "mse"}, weighted_metrics={"click": ["auc"]})
    history = model.fit(
        IDS, {"click": Y, "time": AGE[:, :1]}, sample_weight={"click": AGE[:, 0], "time": AGE[:, 1]}, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all() and "click_auc" in history.history


def test_what_is_not_defined_on_rows_is_refused():
    with pytest.raises(ValueError, match="clipvalue"):
        functional().compile(keras.optimizers.Adagrad(0.1, clipvalue=1.0), loss="mse")
    with pytest.raises(ValueError, match="momentum"):
        functional().compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")


def test_tensorflow_reads_rows_and_not_the_table_for_a_prediction():
    """A read of the variable's value would copy all of it, once a row was written."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("about TensorFlow's variables")
    import tensorflow as tf

    model = functional()
    graph = (
        tf.function(lambda x: model(x, training=False))
        .get_concrete_function({"ids": tf.zeros((8, 4), tf.int32), "age": tf.zeros((8, 2))})
        .graph
    )
    table = next(v for v in model.variables if is_table(v)).value
    captured = next(inner for outer, inner in graph.captures if outer is table.handle)
    assert {op.type for op in captured.consumers()} == {"ResourceGather"}


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data pipelines of Keras's data adapters")
def test_pipelines_have_no_tuning_thread_that_fit_would_wait_for(monkeypatch):
    import tensorflow as tf

    model, x, y = functional(), {name: v[:3] for name, v in X.items()}, np.array([0.0, 1.0, 1.0])
    model.compile("adagrad", loss="mse")
    seen = []
    strategy = type(tf.distribute.get_strategy())
    distribute = strategy.experimental_distribute_dataset

    def spy(self, dataset, *args):
        seen.append(dataset.options().autotune.enabled)
        return distribute(self, dataset, *args)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x, y

    monkeypatch.setattr(strategy, "experimental_distribute_dataset", spy)
    arrays = model.fit(x, y, batch_size=2, validation_data=(x, y, y), class_weight={0: 1.0, 1: 2.0}, verbose=0).history
    batches = model.fit(Batches(), validation_data=Batches(), epochs=2, verbose=0).history
    assert len(arrays["val_loss"]) == 1 and len(batches["val_loss"]) == 2
    model.evaluate(x, y, sample_weight=y, verbose=0)
    assert model.predict(Batches(), verbose=0).shape[0] == 6
    assert seen == [False] * 6


INTEGERS = ["int32"] if keras.backend.backend() == "jax" else ["int32", "int64"]  # JAX has no other


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("make", [functional, Subclassed], ids=["functional", "subclassed"])
def test_a_wide_id_is_out_of_range_and_no_other_id(make, dtype):
    model = make() if make is Subclassed else functional(dtype=dtype)
    wide, outside = IDS.astype("int64"), IDS.copy()
    wide[0, 0], wide[1, 0] = 2**32 + 3, 2**31 + 1
    outside[:2, 0] = 50
    expected = model.predict({"ids": outside, "age": AGE}, verbose=0)
    np.testing.assert_array_equal(model.predict({"ids": wide, "age": AGE}, verbose=0), expected)
    np.testing.assert_array_equal(model.predict_on_batch({"ids": wide, "age": AGE}), expected)


def test_wide_ids_of_a_hashed_column_are_the_same_rows_whatever_the_input():
    schema = Schema(categorical=[Categorical("u", 50, hashed=True), Categorical("v", 5)])
    ids = np.array([[2**40 + 7, 1], [2**33, 2**33], [5, -1]])
    outputs = []
    for dtype in INTEGERS:
        inputs = keras.Input((2,), dtype=dtype)
        collection = EmbeddingCollection(schema, 3, concatenate=True, seed=1)
        model = SparseModel(inputs, collection(inputs))
        outputs += [model.predict(ids, verbose=0), np.asarray(keras.ops.convert_to_numpy(model(ids)))]
        outputs.append(keras.ops.convert_to_numpy(model(schema.pack({"u": ids[:, 0], "v": [1, 0, -1]})["sparse"])))
        outputs[-1][1, 3:] = outputs[0][1, 3:]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


class Whole(SparseModel):
    """Reads its table past the layer."""

    def __init__(self):
        super().__init__()
        self.embeddings = EmbeddingCollection(SCHEMA, 3, concatenate=True, seed=1)
        self.down = keras.layers.Dense(3)
        self.embeddings.build((None, 4))
        self.down.build((None, 9))
        self.built = True

    def call(self, inputs, training=None):
        x = self.down(self.embeddings(inputs))
        return keras.ops.matmul(x, keras.ops.transpose(keras.ops.convert_to_tensor(self.embeddings.tables[0])))


def test_a_table_read_as_a_whole_in_a_training_step_is_refused():
    model = Whole()
    model.compile("sgd", loss="mse")
    assert model.predict(IDS, verbose=0).shape == (24, 55)
    with pytest.raises(RuntimeError, match="is read as a whole in a training step"):
        model.fit(IDS, np.ones((24, 55)), verbose=0)


def test_a_model_that_is_frozen_trains_nothing():
    model = functional()
    model.trainable = False
    model.compile("sgd", loss="mse")
    before = [np.array(w) for w in model.get_weights()]
    model.fit(X, Y, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_tables_are_set_from_arrays_of_any_layout():
    collection = EmbeddingCollection(SCHEMA, 3)
    collection.build()
    rows = collection.embedding_tables()["b"]
    collection.set_embedding_tables({"b": rows[::-1]})
    np.testing.assert_array_equal(collection.embedding_tables()["b"], rows[::-1])
    collection.set_embedding_tables({"b": np.asfortranarray(rows)})
    np.testing.assert_array_equal(collection.embedding_tables()["b"], rows)


@pytest.mark.slow
def test_a_model_compiled_with_anothers_optimizer_has_slots_of_its_own():
    first, second = functional(), functional()
    first.compile("adagrad", loss="mse")
    first.fit(X, Y, verbose=0)
    second.compile(first.optimizer, loss="mse")
    second.fit(X, Y, verbose=0)
    assert second.optimizer is not first.optimizer

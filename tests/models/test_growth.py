"""A model that follows a grown vocabulary: known ids predict and train as before, new rows begin again."""

import keras
import numpy as np
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd

SMALL = kd.Schema(
    dense=["I1"],
    categorical=[kd.Categorical("C1", 5), kd.Categorical("tags", 4, hotness=2), kd.Categorical("last", 4, table="tags")],
)
LARGE = SMALL.replace_categorical(C1={"vocabulary_size": 8}, tags={"vocabulary_size": 6}, last={"vocabulary_size": 6})
RANDOM = np.random.default_rng(0)
X = {"dense": RANDOM.random((16, 1), np.float32), "sparse": RANDOM.integers(-1, 4, (16, 4)).astype(np.int32)}
Y = RANDOM.integers(0, 2, 16)


def make(schema=SMALL, optimizer="adagrad", rule=None, **options):
    model = kd.models.DLRM(schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=3, **options)
    if optimizer is not None:
        model.compile(optimizer, embedding_optimizer=rule)
    return model


def fit(model, batches=2):
    model.fit(X, Y, batch_size=8, epochs=batches // 2, shuffle=False, verbose=0)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "batch_norm": True}, {"embedding_options": {"table_dtype": "bfloat16"}}])
def test_known_ids_predict_as_before_and_new_rows_are_those_of_a_fresh_model(options):
    model = fit(make(**options))
    grown, fresh = kd.models.grow(model, LARGE), make(LARGE, **options)
    np.testing.assert_array_equal(grown.predict(X, verbose=0), model.predict(X, verbose=0))
    old, new, initial = model.embedding_tables(), grown.embedding_tables(), fresh.embedding_tables()
    for name, rows in old.items():
        np.testing.assert_array_equal(new[name][: len(rows)], rows)
        np.testing.assert_array_equal(new[name][len(rows) :], initial[name][len(rows) :])
    assert grown.schema == LARGE and model.schema == SMALL


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        pytest.param("adam", "rowwise_adagrad", marks=pytest.mark.slow),
        pytest.param("adagrad", None, marks=suite_on("torch")),
        pytest.param("adam", None, marks=suite_on("torch")),
        pytest.param(lambda: keras.optimizers.Adam(0.01, use_ema=True), "adagrad", marks=pytest.mark.slow),
        pytest.param(lambda: keras.optimizers.Adagrad(0.1, gradient_accumulation_steps=2), None, marks=suite_on("torch")),
    ],
)
def test_training_goes_on_as_in_the_model_before(optimizer, rule):
    model = fit(make(optimizer=optimizer() if callable(optimizer) else optimizer, rule=rule))
    grown = kd.models.grow(model, LARGE)
    for m in (model, grown):
        fit(m, batches=4)
    for name, rows in model.embedding_tables().items():
        np.testing.assert_allclose(grown.embedding_tables()[name][: len(rows)], rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grown.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_slots_of_new_rows_are_initial_and_they_train():
    grown = kd.models.grow(fit(make()), LARGE)
    before = grown.embedding_tables()["C1"]
    (slots,) = grown.optimizer.rows.held_slots
    accumulator = keras.ops.convert_to_numpy(slots["accumulator"].value)
    assert (accumulator[5:8] == accumulator[5, 0]).all() and (accumulator[:5] > accumulator[5, 0]).any()
    batch = {"dense": X["dense"], "sparse": np.full((16, 4), 5, np.int32)}
    grown.fit(batch, Y, verbose=0)
    after = grown.embedding_tables()["C1"]
    assert (after[5] != before[5]).any() and (after[[0, 1, 2, 3, 4, 6, 7]] == before[[0, 1, 2, 3, 4, 6, 7]]).all()


@pytest.mark.slow
def test_a_grown_model_saves_and_loads(tmp_path):
    grown = kd.models.grow(fit(make()), LARGE)
    grown.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), grown.predict(X, verbose=0))


@pytest.mark.slow
def test_split_tables_keep_their_rows_or_are_refused():
    nine, twelve = (SMALL.replace_categorical(C1={"vocabulary_size": n}) for n in (9, 12))
    options = {"embedding_options": {"quotient_remainder": {"collisions": 2, "threshold": 7}}}
    model = fit(make(nine, **options))
    grown = kd.models.grow(model, twelve)
    assert grown.embedding_tables()["C1.quotient"].shape == (6, 4)
    np.testing.assert_array_equal(grown.predict(X, verbose=0), model.predict(X, verbose=0))
    with pytest.raises(ValueError, match="table 'C1' would be larger than the threshold of quotient_remainder"):
        kd.models.grow(make(**options), twelve)


@pytest.mark.slow
def test_models_that_are_frozen_or_not_compiled_grow_too():
    model = make(optimizer=None)
    assert not kd.models.grow(model, LARGE).compiled
    model.embeddings.trainable = False
    model.compile("sgd")
    grown = kd.models.grow(fit(model), LARGE)
    assert not grown.embeddings.trainable
    np.testing.assert_array_equal(grown.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (SMALL.replace_categorical(C1={"vocabulary_size": 4}), "column 'C1' has vocabulary_size=5 and would have 4, where rows"),
        (SMALL.replace_categorical(C1={"oov": 1}), "the schemas differ in 'categorical'"),
        (kd.Schema(["I2"], SMALL.categorical), r"the schemas differ in 'dense'.*only vocabulary_size may change"),
    ],
)
def test_other_schemas_are_refused(schema, message):
    with pytest.raises(ValueError, match=message):
        kd.models.grow(make(optimizer=None), schema)


def test_hashed_tables_and_unfinished_accumulation_and_foreign_models_are_refused():
    hashed = kd.Schema(["I1"], [kd.Categorical("h", 5, hashed=True)])
    with pytest.raises(ValueError, match="hashed ids would fall into other rows; give the same size"):
        kd.models.grow(make(hashed, None), hashed.replace_categorical(h={"vocabulary_size": 9}))
    model = make(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    model.train_on_batch(X, Y)
    with pytest.raises(ValueError, match="accumulated gradients of 1 of 2 batches"):
        kd.models.grow(model, LARGE)
    with pytest.raises(TypeError, match="not Sequential; build one of your own"):
        kd.models.grow(keras.Sequential(), LARGE)

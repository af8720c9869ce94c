"""`TPUEmbedding`: what can be checked without a TPU. keras-rs looks rows up plainly there, in the place of SparseCore."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm import backend
from keras_dlrm.embeddings.sparse_core.config import config_name, feature_configs, keras_optimizer
from keras_dlrm.embeddings.sparse_core.tpu_embedding import keras_rs_everywhere

pytestmark = pytest.mark.usefixtures("quick_exports")

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = kd.Schema(
    dense=["price"],
    categorical=[
        kd.Categorical("item", 10),
        kd.Categorical("tags", 6, hotness=3, combiner="mean"),
        kd.Categorical("last/tags", 6, hotness=2, combiner="sqrtn", table="tags"),
        kd.Categorical("user", 20, hashed=True),
    ],
    label="click",
)
RULES = {
    "sgd": kd.optimizers.SGD(0.5),
    "adagrad": kd.optimizers.Adagrad(0.5, initial_accumulator_value=0.1),
    "adam": kd.optimizers.Adam(0.5, beta_1=0.8, beta_2=0.9, epsilon=1e-6),
}


@pytest.fixture
def keras_rs():
    return pytest.importorskip("keras_rs", reason="needs keras-rs: pip install keras-dlrm[tpu]")


def batch_of(schema=SCHEMA, rows=8, seed=0):
    rng = np.random.default_rng(seed)
    batch = {"sparse": rng.integers(-1, 25, (rows, schema.width)).astype(np.int32)}
    if schema.dense:
        batch["dense"] = rng.normal(size=(rows, schema.n_dense)).astype(np.float32)
    if schema.weighted:
        batch["weights"] = rng.normal(size=(rows, schema.width)).astype(np.float32)
    return batch


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_rule_becomes_the_keras_optimizer_with_its_numbers(name):
    rule, made = RULES[name], keras_optimizer(RULES[name])
    kinds = {"sgd": keras.optimizers.SGD, "adagrad": keras.optimizers.Adagrad, "adam": keras.optimizers.Adam}
    assert isinstance(made, kinds[name])
    assert float(numpy(made.learning_rate)) == 0.5
    for option in ("initial_accumulator_value", "beta_1", "beta_2"):
        assert getattr(made, option, None) == getattr(rule, option, None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("rowwise_adagrad", "RowwiseAdagrad is not on SparseCore; .* Adagrad is the nearest"),
        (kd.optimizers.SGD(0.1, l2=0.1), "l2=0.1 is not on SparseCore"),
        (kd.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), "learning_rate is a schedule"),
        ("adagrad", "initial_accumulator_value=0.0 gives 0/0"),
        (kd.optimizers.Adagrad(0.1, 0.1, epsilon=0.1), "epsilon=0.1 would change steps"),
        (kd.optimizers.Adam(0.1, epsilon=0.0), "epsilon=0 gives 0/0"),
        ("ftrl", "embedding_optimizer='ftrl' is unknown"),
    ],
)
def test_what_sparse_core_does_not_have_is_refused_on_every_machine(rule, message):
    with pytest.raises(ValueError, match=message):
        kd.layers.TPUEmbedding(SCHEMA, 4, embedding_optimizer=rule)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table_dtype": "bfloat16"}, "table_dtype='bfloat16' is not on SparseCore"),
        ({"quotient_remainder": {"collisions": 2}}, "quotient_remainder=.* is not on SparseCore"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kd.layers.TPUEmbedding(SCHEMA, 4, **options)


def test_a_tpu_needs_the_size_of_its_batches(monkeypatch):
    monkeypatch.setattr(backend._adapter(), "on_tpu", lambda: True, raising=False)
    with pytest.raises(ValueError, match="batch_size=None, but on a TPU it must be given"):
        kd.layers.TPUEmbedding(SCHEMA, 4)


def configs(rule=RULES["sgd"], placement="sparsecore"):
    layer = kd.layers.EmbeddingCollection(SCHEMA, {"item": 8, "tags": 4, "user": 4}, output_dim=4)
    options = {"placement": placement, "max_ids_per_partition": 100, "max_unique_ids_per_partition": 50}
    return feature_configs(SCHEMA, layer.stacks, rule, 0, 32, **options)


def test_each_column_has_a_feature_and_columns_of_one_table_share_its_config(keras_rs):
    found = configs()
    assert {name: (f.input_shape, f.output_shape) for name, f in found.items()} == {
        "item": ((32, 1), (32, 8)),
        "tags": ((32, 3), (32, 4)),
        "last/tags": ((32, 2), (32, 4)),
        "user": ((32, 1), (32, 4)),
    }
    assert found["tags"].table is found["last/tags"].table
    # One more row than the vocabulary, for padding.
    assert {f.table.name: f.table.vocabulary_size for f in found.values()} == {"item": 11, "tags": 7, "user": 21}
    for feature in found.values():
        table = feature.table
        assert (table.combiner, table.placement) == ("sum", "sparsecore")
        assert (table.max_ids_per_partition, table.max_unique_ids_per_partition) == (100, 50)


def test_tables_of_similar_names_have_different_ones_in_the_configuration():
    schema = kd.Schema(categorical=[kd.Categorical(name, 3) for name in ("a/b", "a b", "a_b", "a_b_0")])
    (stack,) = kd.layers.EmbeddingCollection(schema, 4).stacks
    assert len({config_name(table) for table in stack.tables}) == 4


@pytest.mark.parametrize("name", RULES)
def test_keras_rs_converts_the_configuration_for_tensorflow(keras_rs, name):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("keras-rs converts to TensorFlow's configuration on that backend alone")
    from keras_rs.src.layers.embedding.tensorflow import config_conversion

    features, _ = config_conversion.keras_to_tf_tpu_configuration(configs(RULES[name]), "auto", num_replicas_in_sync=4)
    assert features["tags"].table is features["last/tags"].table
    assert list(features["tags"].output_shape) == [8]
    optimizer = features["item"].table.optimizer
    assert (type(optimizer).__name__.lower(), optimizer.learning_rate) == (name, 0.5)


@pytest.mark.parametrize("name", RULES)
def test_keras_rs_converts_the_configuration_for_jax(keras_rs, name):
    if keras.backend.backend() != "jax":
        pytest.skip("keras-rs converts to JAX's configuration on that backend alone")
    pytest.importorskip("jax_tpu_embedding", reason="needs jax-tpu-embedding")
    from keras_rs.src.layers.embedding.jax import config_conversion

    features = config_conversion.keras_to_jte_feature_configs(configs(RULES[name]))
    assert features["tags"].table_spec is features["last/tags"].table_spec
    optimizer = features["item"].table_spec.optimizer
    assert type(optimizer).__name__.lower() == f"{name}optimizerspec"
    assert optimizer.get_learning_rate(0) == 0.5


# -- lookups ---------------------------------------------------------------------------------------------------------

columns = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["sum", "mean", "sqrtn"]), st.sampled_from(["a", "b/c", "d"])),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@given(columns=columns, weighted=st.booleans(), concatenate=st.booleans(), seed=st.integers(0, 99))
def test_lookups_through_keras_rs_equal_the_engine_s(columns, weighted, concatenate, seed):
    pytest.importorskip("keras_rs", reason="needs keras-rs: pip install keras-dlrm[tpu]")
    sizes = {"a": 5, "b/c": 9, "d": 2}
    schema = kd.Schema(
        categorical=[
            kd.Categorical(f"c{i}", sizes[table], hotness=hotness, combiner=combiner, table=table, hashed=table == "d")
            for i, (hotness, combiner, table) in enumerate(columns)
        ],
        weighted=weighted,
    )
    engine = kd.layers.EmbeddingCollection(schema, 4, concatenate=concatenate, seed=1)
    with keras_rs_everywhere():
        through = kd.layers.TPUEmbedding(schema, 4, concatenate=concatenate, seed=1)
    engine.build()
    through.build()
    through.set_embedding_tables(engine.embedding_tables())
    batch = batch_of(schema, rows=4, seed=seed)
    expected = numpy(engine(batch))
    np.testing.assert_allclose(numpy(through(batch)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(through(through.preprocess(batch))), expected, rtol=1e-5, atol=1e-6)


def test_logical_tables_come_back_as_they_were_set_one_by_one(keras_rs):
    with keras_rs_everywhere():
        layer = kd.layers.TPUEmbedding(SCHEMA, 4, seed=0)
    layer.build()
    before = layer.embedding_tables()
    assert {name: rows.shape for name, rows in before.items()} == {"item": (10, 4), "tags": (6, 4), "user": (20, 4)}
    assert all(np.abs(rows).max() <= np.sqrt(1 / len(rows)) and rows.std() > 0 for rows in before.values())
    new = np.arange(24, dtype=np.float32).reshape(6, 4)
    layer.set_embedding_tables({"tags": new})
    after = layer.embedding_tables()
    np.testing.assert_array_equal(after["tags"], new)
    np.testing.assert_array_equal(after["item"], before["item"])
    with pytest.raises(ValueError, match="it must be"):
        layer.set_embedding_tables({"tags": new[:5]})


# -- models ----------------------------------------------------------------------------------------------------------


def dlrm(rule=RULES["sgd"]):
    tpu = {"embedding_optimizer": rule, "batch_size": 8}
    return kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[4, 1], embedding_options={"tpu": tpu}, seed=0)


def dlrm_through_keras_rs():
    with keras_rs_everywhere():
        return dlrm()


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_without_a_tpu_a_model_trains_as_with_an_embedding_collection(name):
    model = dlrm(RULES[name])
    plain = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[4, 1], seed=0)
    model.compile("sgd")  # the tables' rule is the layer's
    plain.compile("sgd", embedding_optimizer=RULES[name])
    labels = np.arange(8) % 2
    for each in (model, plain):
        each.fit(batch_of(), labels, batch_size=4, shuffle=False, verbose=0)
    for table, rows in plain.embedding_tables().items():
        np.testing.assert_allclose(model.embedding_tables()[table], rows, rtol=1e-6)  # a GPU adds in any order


@pytest.mark.slow
def test_a_step_through_keras_rs_equals_the_engine_s_where_the_optimizer_is_sgd(keras_rs):
    through, engine = dlrm_through_keras_rs(), dlrm()
    through.set_embedding_tables(engine.embedding_tables())
    for model in (through, engine):
        model.compile(kd.optimizers.SGD(0.5))
        model.fit(batch_of(), np.arange(8) % 2, batch_size=8, verbose=0)
    for table, rows in engine.embedding_tables().items():
        np.testing.assert_allclose(through.embedding_tables()[table], rows, rtol=1e-5, atol=1e-6)


def test_compile_refuses_another_rule_than_the_layer_s():
    model = dlrm(RULES["adagrad"])
    model.compile("sgd", embedding_optimizer=kd.optimizers.Adagrad(0.5, initial_accumulator_value=0.1))
    with pytest.raises(ValueError, match="differs from the Adagrad .* that a TPUEmbedding was made with"):
        model.compile("sgd", embedding_optimizer="adam")


def test_a_preprocessed_batch_goes_through_the_model(keras_rs):
    model = dlrm_through_keras_rs()
    batch = batch_of()
    if keras.backend.backend() != "jax":
        assert model.embeddings.preprocess(batch).keys() == batch.keys()
    np.testing.assert_allclose(numpy(model(model.embeddings.preprocess(batch))), numpy(model(batch)), rtol=1e-5)


SERVE = """
import sys
sys.modules["keras_rs"] = None  # as where it is not installed
import numpy as np, keras, keras_dlrm as kd
model = keras.saving.load_model(sys.argv[1])
assert type(model.embeddings).__name__ == "TPUEmbedding" and not model.embeddings.uses_keras_rs
batch = dict(np.load(sys.argv[2]))
np.save(sys.argv[3], model.predict(batch, verbose=0))
if keras.backend.backend() == "tensorflow":
    kd.export.savedmodel(model, sys.argv[4])
    import tensorflow as tf
    served = tf.saved_model.load(sys.argv[4] + "/1").signatures["serving_default"]
    served = served(dense=tf.constant(batch["dense"]), sparse=tf.constant(batch["sparse"], "int64"))
    np.testing.assert_allclose(served["probability"], np.load(sys.argv[3]), rtol=1e-5)
"""


@pytest.mark.slow
def test_a_model_that_keras_rs_trained_is_loaded_and_served_without_it(keras_rs, programs, tmp_path):
    model = dlrm_through_keras_rs()
    model.compile("sgd")
    batch = batch_of()
    model.fit(batch, np.arange(8) % 2, verbose=0)
    expected = model.predict(batch, verbose=0)
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "batch.npz", **batch)
    paths = [str(tmp_path / name) for name in ("m.keras", "batch.npz", "found.npy", "served")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([programs / "python", "-c", SERVE, *paths], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(paths[2]), expected, rtol=1e-5)


def test_export_of_tables_that_keras_rs_holds_says_what_to_do(keras_rs, tmp_path):
    with pytest.raises(ValueError, match="save the model .*, and load it where there is no TPU"):
        kd.export.savedmodel(dlrm_through_keras_rs(), tmp_path)


@pytest.mark.parametrize(("source", "target"), [(dlrm_through_keras_rs, dlrm), (dlrm, dlrm_through_keras_rs)])
def test_checkpoints_hold_logical_tables(keras_rs, tmp_path, source, target):
    pytest.importorskip("tensorstore")
    there, here = source(), target()
    for model in (there, here):
        model.predict(batch_of(), verbose=0)
    tables = {name: np.random.default_rng(1).normal(size=t.shape) for name, t in there.embedding_tables().items()}
    there.set_embedding_tables(tables)
    kd.checkpoint.save(there, tmp_path, step=1)
    kd.checkpoint.restore(here, tmp_path)
    for name, rows in tables.items():
        np.testing.assert_array_equal(here.embedding_tables()[name], rows.astype(np.float32))
    np.testing.assert_allclose(here.predict(batch_of(), verbose=0), there.predict(batch_of(), verbose=0), rtol=1e-5)

"""Places of rows among SparseCores, and the buffers sent there, against TensorFlow's and jax-tpu-embedding's host code."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.embeddings.sparse_core.config import feature_configs
from keras_dlrm.embeddings.sparse_core.tables import Placed, placed
from keras_dlrm.embeddings.sparse_core.tpu_embedding import keras_rs_everywhere


@given(cores=st.integers(1, 8), offset=st.integers(0, 3), rows=st.integers(1, 40), rotation=st.integers(0, 7))
def test_a_table_comes_back_out_of_a_stack_as_it_was_put_in(cores, offset, rows, rotation):
    place = Placed(cores, offset, rotation, rows, 3)
    stack = np.full(((offset + -(-rows // cores) + 1) * cores, 8), -1.0)
    table = np.arange(rows * 3.0).reshape(rows, 3)
    place.put(stack, table)
    np.testing.assert_array_equal(place.take(stack), table)
    assert (stack >= 0).sum() == table.size  # nothing else was written


def test_rows_lie_where_tensorflow_puts_them():
    """TensorFlow's own stacking and its own reading of stacks for checkpoints, neither of which needs a TPU."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("is about TensorFlow's layout")
    import tensorflow as tf
    from tensorflow.python.tpu import tpu_embedding_v3, tpu_embedding_v3_utils

    devices, per_chip = 2, 4
    sizes = {"a": 37, "b": 100, "c": 9}
    engine = tf.tpu.experimental.embedding
    tables = [
        engine.TableConfig(rows, 5, tf.zeros_initializer(), engine.SGD(0.1), name=name) for name, rows in sizes.items()
    ]
    features = [(table.name, engine.FeatureConfig(table, output_shape=[8])) for table in tables]
    stacking = tpu_embedding_v3._stack_tables_with_same_table_dim_and_optimizer(tables, features, devices, per_chip)
    assert len(stacking.stacked_table_to_tables) == 1  # all three in one
    cores = devices * per_chip
    rows = stacking.table_to_layout["a"].total_rows_per_sparse_core_shard * cores
    stack = np.random.default_rng(0).normal(size=(rows, 8))
    used = []
    for name, size in sizes.items():
        layout = stacking.table_to_layout[name]
        padded, width = layout.unsharded_padded_shape
        offset, rotation = layout.sparse_core_shard_row_offset, layout.sparse_core_shard_rotation
        theirs = tpu_embedding_v3_utils.unshuffle_from_sc_to_cpu(
            tf.constant(stack), cores, offset, padded // cores, rotation
        )
        place = placed(layout)
        assert (place.cores, place.rows, place.width) == (cores, size, 5)
        np.testing.assert_array_equal(place.take(stack), theirs.numpy()[:size, :5])
        used += place.where(rows).tolist()
    assert len(set(used)) == sum(sizes.values())  # no row is two tables'


def test_what_is_sent_on_jax_gives_the_sums_of_the_rows():
    """jax-tpu-embedding's own preparation of a batch and of tables for 4 SparseCores, added up here in place of them."""
    if keras.backend.backend() != "jax":
        pytest.skip("is about what JAX sends")
    pytest.importorskip("keras_rs", reason="needs keras-rs: pip install keras-dlrm[tpu]")
    pytest.importorskip("jax_tpu_embedding", reason="needs jax-tpu-embedding")
    from jax_tpu_embedding.sparsecore.lib.nn import embedding, table_stacking
    from keras_rs.src.layers.embedding.jax import config_conversion, embedding_utils

    schema = kd.Schema(
        categorical=[
            kd.Categorical("item", 10),
            kd.Categorical("tags", 6, hotness=3, combiner="mean"),
            kd.Categorical("last/tags", 6, hotness=2, combiner="sqrtn", table="tags"),
            kd.Categorical("user", 20, hashed=True),
        ],
        weighted=True,
    )
    size, cores, width, rng = 32, 4, 8, np.random.default_rng(0)
    batch = {
        "sparse": rng.integers(-1, 25, (size, schema.width)).astype(np.int32),
        "weights": rng.normal(size=(size, schema.width)).astype(np.float32),
    }
    with keras_rs_everywhere():
        layer = kd.layers.TPUEmbedding(schema, width, seed=0)
    asked, _, sent = layer.lookups(batch)
    configs = feature_configs(schema, layer.stacks, kd.optimizers.SGD(0.5), 0, size, placement="sparsecore")
    specs = config_conversion.keras_to_jte_feature_configs(configs)
    table_stacking.auto_stack_tables(specs, 1, cores)  # all three in one
    embedding.prepare_feature_specs_for_training(specs, 1, cores)
    samples = embedding_utils.create_feature_samples(specs, *layer.store.ragged_features(asked, sent))
    (given,) = embedding_utils.stack_and_shard_samples(specs, samples, 1, 1, cores)[0].values()
    tables = {
        c.table.name: rng.normal(size=(c.table.vocabulary_size, width)).astype("float32") for c in configs.values()
    }
    (stack,) = table_stacking.stack_and_shard_tables(embedding.get_table_specs(specs), tables, cores).values()

    sums = np.zeros((cores, len(specs) * size // cores, width))
    per_core = len(given.shard_starts) // cores
    for i, (start, end) in enumerate(zip(given.shard_starts, given.shard_ends, strict=True)):
        core, source = divmod(i, per_core)
        base = core * len(given.values) // cores
        for k in range(base + (start if source else 0), base + end):
            sums[core, given.row_ids[k]] += given.values[k] * stack[source, given.col_ids[k]]
    ids, weights = layer.store.features(asked, sent)
    for name, spec in specs.items():
        first, rows = spec.id_transformation.row_offset // cores, size // cores
        found = np.concatenate([part[first : first + rows] for part in sums])
        expected = tables[configs[name].table.name][np.asarray(ids[name])] * np.asarray(weights[name])[..., None]
        np.testing.assert_allclose(found, expected.sum(1), rtol=1e-5, atol=1e-5)

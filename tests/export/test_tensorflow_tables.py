"""Tables in fewer bytes inside a TensorFlow graph, as a SavedModel or LiteRT file holds them."""

import keras
import numpy as np
import pytest

from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.embeddings.quantized import KINDS
from keras_dlrm.export.requests import check_batch, expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.models import DLRM
from keras_dlrm.schema.schema import Categorical, Schema

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs of TensorFlow; other backends export through it", allow_module_level=True)

import tensorflow as tf  # noqa: E402

from keras_dlrm.export.tables.taped_tables import TensorFlowTables  # noqa: E402

SCHEMA = Schema(
    dense=["x"], categorical=[Categorical("a", 900, oov=5), Categorical("b", 30, hotness=3, combiner="mean", oov=None)]
)


def model_with_masks():
    model = DLRM(SCHEMA, {"a": 5, "b": 8}, [8], [4, 1], seed=0)
    masks = {"a": np.arange(900) % 3 > 0, "b": np.arange(30) > 4}
    masks["a"][5] = False
    return model, masks


def save(model, tables, path):
    signature = {
        "dense": tf.TensorSpec((None, 1), tf.float32, name="dense"),
        "sparse": tf.TensorSpec((None, 4), tf.int64, name="sparse"),
    }

    @tf.function(input_signature=[signature], autograph=False)
    def serve(inputs):
        with taped(tables):
            return model(inputs, training=False)

    module = tf.Module()
    module.weights = tables.weights(model)
    module.serve = serve
    tf.saved_model.save(module, str(path))
    return tf.saved_model.load(str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "prune", "bits"),
    [(None, False, False), *((kind, i % 2 > 0, i % 2 > 0) for i, kind in enumerate(KINDS)), ("int4", True, True)],
)
def test_a_saved_graph_predicts_with_the_stored_tables(tmp_path, kind, prune, bits):
    model, masks = model_with_masks()
    stored = StoredTables(model, kind, masks if prune else None)
    loaded = save(model, TensorFlowTables(stored, bits), tmp_path)
    batch = check_batch(SCHEMA)
    expected = expected_probabilities(model, batch, stored)
    np.testing.assert_allclose(loaded.serve({k: tf.constant(v) for k, v in batch.items()}), expected, atol=1e-6)


def test_float32_tables_are_not_part_of_what_is_saved(tmp_path):
    model = DLRM(Schema(["x"], [Categorical("a", 20_000), Categorical("b", 8, hotness=3)]), 16, [16], [1], seed=0)
    sizes = {}
    for kind in (None, "int8"):
        tables = TensorFlowTables(StoredTables(model, kind))
        save(model, tables, tmp_path / str(kind))
        sizes[kind] = sum(p.stat().st_size for p in (tmp_path / str(kind) / "variables").iterdir())
    assert sizes["int8"] < 0.3 * sizes[None]
    assert any(weight is model.embeddings.tables[0].value for weight in TensorFlowTables(StoredTables(model)).weights(model))


def test_tables_in_their_own_dtype_are_not_copied():
    model, masks = model_with_masks()
    own = TensorFlowTables(StoredTables(model))
    for table in model.embeddings.tables:
        assert own.arrays[id(table)] == {"codes": table.value}
    pruned = TensorFlowTables(StoredTables(model, prune={"a": masks["a"]}))
    assert [list(arrays) for arrays in pruned.arrays.values()] == [["codes", "map"], ["codes"]]

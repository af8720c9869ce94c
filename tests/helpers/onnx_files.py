"""A schema, batches with ids of all kinds, and ONNX Runtime's answers, for the tests of ONNX files."""

import numpy as np

from keras_dlrm.export.onnx_graph.files import new_session
from keras_dlrm.export.requests import expected_probabilities
from keras_dlrm.schema.schema import Categorical, Schema

SCHEMA = Schema(
    dense=["I1", "I2"], categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)]
)


def batch_of(schema, rows, seed=0):
    """Ids of all kinds: in the vocabulary, padding, far beyond it; weights of padding that are not finite."""
    rng = np.random.default_rng(seed)
    batch = {}
    if schema.dense:
        batch["dense"] = rng.normal(size=(rows, schema.n_dense)).astype("float32")
    sizes = np.repeat([c.vocabulary_size for c in schema.categorical], [c.hotness for c in schema.categorical])
    ids = rng.integers(-1, sizes, size=(rows, schema.width))
    strange = rng.choice([-2, -(2**40), 2**31 - 1, 2**31, 2**32 + 1, 2**40], size=ids.shape)
    batch["sparse"] = np.where(rng.random(ids.shape) < 0.15, strange, ids)
    if schema.weighted:
        weights = rng.uniform(-1, 2, size=ids.shape).astype("float32")
        batch["weights"] = np.where(batch["sparse"] == -1, np.float32("nan"), weights)
    return batch


def run(path, batch):
    return new_session(path).run(None, batch)[0]


def assert_equal_to_predict(model, path, batch, atol=1e-5, stored=None):
    expected = expected_probabilities(model, batch, stored)
    np.testing.assert_allclose(run(path, batch), expected, rtol=0, atol=atol)

"""A sparse step equals the dense optimizer's, computed over whole tables in NumPy float64, for any schema and batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers import numpy_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_dlrm import optimizers
from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.models import SparseModel
from keras_dlrm.schema.schema import Categorical, Schema

RATE, WIDTH = 0.1, 3
# Rules that leave a row without gradient alone, and the same in NumPy.
RULES = {
    "sgd": (optimizers.SGD, numpy_rules.sgd),
    "adagrad": (optimizers.Adagrad, numpy_rules.adagrad),
    "rowwise_adagrad": (optimizers.RowwiseAdagrad, numpy_rules.rowwise_adagrad),
}


def gradients(schema, sparse, weights, upstream):
    """Gradient of Σ pooled · upstream for each whole table."""
    out = {name: np.zeros((size, WIDTH)) for name, size in schema.table_sizes.items()}
    for b in range(len(sparse)):
        for k, (column, start) in enumerate(zip(schema.categorical, schema.offsets, strict=True)):
            places = range(start, start + column.hotness)
            real = [(int(sparse[b, p]), 1.0 if weights is None else float(weights[b, p])) for p in places]
            real = [(i, w) for i, w in real if i >= 0]
            total = sum(w for _, w in real)
            norm = {"sum": 1.0, "mean": total, "sqrtn": np.sqrt(sum(w * w for _, w in real))}[column.combiner]
            for i, w in real:
                if norm:
                    out[column.table_name][i] += w / norm * upstream[b, k * WIDTH : (k + 1) * WIDTH]
    return out


@st.composite
def problems(draw):
    """A schema with few values, so that ids repeat much, and two batches; columns may share tables."""
    columns = []
    for k in range(draw(st.integers(1, 4))):
        size, shared = draw(st.integers(1, 6)), draw(st.booleans())
        own = [c for c in columns if c.table is None]
        other = draw(st.sampled_from(own)) if shared and own else None
        columns.append(
            Categorical(
                f"c{k}",
                other.vocabulary_size if other else size,
                hotness=draw(st.integers(1, 4)),
                combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
                table=other.name if other else None,
            )
        )
    schema = Schema(categorical=columns, weighted=draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = draw(st.sampled_from([1, 2, 7]))
    batches = []
    for _ in range(2):
        top = np.repeat([c.vocabulary_size for c in columns], [c.hotness for c in columns])
        sparse = rng.integers(-1, top, (rows, schema.width))
        if draw(st.booleans()):
            sparse[rng.integers(0, rows)] = -1  # a row of nothing but padding
        weights = rng.choice([0.5, 1.0, 2.0], sparse.shape).astype("float32") if schema.weighted else None
        batches.append((sparse.astype("int32"), weights, rng.normal(size=(rows, WIDTH * len(columns)))))
    return schema, batches


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10 if keras.backend.backend() != "jax" else 5)
@given(problem=problems())
def test_a_sparse_step_is_the_dense_optimizers(rule, problem):
    schema, batches = problem
    inputs = {"sparse": keras.Input((schema.width,), dtype="int32", name="sparse")}
    if schema.weighted:
        inputs["weights"] = keras.Input((schema.width,), name="weights")
    layer = EmbeddingCollection(schema, WIDTH, concatenate=True, seed=0)
    model = SparseModel(inputs, layer(inputs))
    make, in_numpy = RULES[rule]
    model.compile(
        make(RATE),
        loss=lambda y, p: ops.sum(y * p, axis=-1),
        run_eagerly=keras.backend.backend() != "jax",
    )
    expected = {name: table.astype("float64") for name, table in layer.embedding_tables().items()}
    states = {name: [{} for _ in table] for name, table in expected.items()}
    for number, (sparse, weights, upstream) in enumerate(batches, 1):
        x = {"sparse": sparse} if weights is None else {"sparse": sparse, "weights": weights}
        model.train_on_batch(x, upstream.astype("float32"))
        mean = upstream.astype("float32").astype("float64") / len(sparse)  # Keras's loss is the mean over the batch
        for name, gradient in gradients(schema, sparse, weights, mean).items():
            for i, state in enumerate(states[name]):
                expected[name][i] = in_numpy(expected[name][i], gradient[i], state, RATE, number)
    for name, table in layer.embedding_tables().items():
        np.testing.assert_allclose(table, expected[name], rtol=1e-6, atol=1e-6)

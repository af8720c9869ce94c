"""Split tables, mixed dimensions, hashed ids and bfloat16 tables: what they look up, how they train, that they survive."""

import keras
import numpy as np
import pytest
from helpers.calls import called
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_dlrm as kd
from keras_dlrm.embeddings.rules.rounding import round_stochastically
from keras_dlrm.embeddings.table_rows import bucket
from keras_dlrm.embeddings.table_rows import fold as fold_in_graph
from keras_dlrm.layers import EmbeddingCollection, QuotientRemainder, mixed_dimensions
from keras_dlrm.schema.hashing import fold

JAX = keras.backend.backend() == "jax"
SCHEMA = kd.Schema(
    categorical=[
        kd.Categorical("big", 1003),
        kd.Categorical("small", 7, hotness=2, combiner="mean"),
        kd.Categorical("tags", 501, hotness=3, combiner="sqrtn"),
        kd.Categorical("again", 1003, table="big"),
    ]
)


def ids(rows=16, seed=0, schema=SCHEMA):
    random = np.random.default_rng(seed)
    columns = [random.integers(-1, c.vocabulary_size, (rows, c.hotness)) for c in schema.categorical]
    return np.concatenate(columns, axis=1).astype("int32")


def whole_tables(layer):
    """Tables of all the vectors that ids stand for, by logical table; made of those of the layer."""
    tables, split = layer.embedding_tables(), layer.quotient_remainder
    found = {}
    for name, size in layer.schema.table_sizes.items():
        if name in tables:
            found[name] = tables[name]
            continue
        i = np.arange(size)
        first = tables[f"{name}.quotient"][i // split.collisions]
        second = tables[f"{name}.remainder"][i % split.collisions]
        found[name] = {"mult": first * second, "add": first + second, "concat": np.concatenate([first, second], 1)}[
            split.operation
        ]
    return found


@pytest.mark.parametrize("operation", ["mult", "add", "concat"])
@settings(max_examples=8, deadline=None)
@given(
    concatenate=st.booleans(),
    collisions=st.integers(2, 50),
    threshold=st.sampled_from([0, 6, 200, 502, 5000]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_split_tables_look_up_what_whole_tables_would(operation, concatenate, collisions, threshold, weighted, seed):
    split = QuotientRemainder(collisions, operation, threshold)
    layer = EmbeddingCollection(SCHEMA, 4, concatenate, quotient_remainder=split, seed=seed)
    plain = EmbeddingCollection(SCHEMA, 4, concatenate)
    batch = {"sparse": ids(seed=seed)}
    if weighted:
        batch["weights"] = np.random.default_rng(seed).random(batch["sparse"].shape).astype("float32")
    layer.build()
    plain.build()
    got = ops.convert_to_numpy(called(layer, batch))
    plain.set_embedding_tables(whole_tables(layer))
    np.testing.assert_allclose(got, ops.convert_to_numpy(called(plain, batch)), rtol=1e-5, atol=1e-6)
    assert got.shape == layer.compute_output_shape(batch["sparse"].shape)


def test_a_split_table_has_few_parameters_and_says_so():
    layer = EmbeddingCollection(SCHEMA, 8, quotient_remainder={"collisions": 10, "threshold": 600})
    layer.build()
    shapes = {name: rows.shape for name, rows in layer.embedding_tables().items()}
    assert shapes == {"big.quotient": (101, 8), "big.remainder": (10, 8), "small": (7, 8), "tags": (501, 8)}
    assert layer.count_params() == (101 + 10 + 7 + 501) * 8
    # No two ids are the same.
    assert len(np.unique(whole_tables(layer)["big"], axis=0)) == 1003


@pytest.mark.parametrize("operation", ["mult", "add", "concat"])
def test_split_tables_start_with_the_variance_of_whole_ones(operation):
    schema = kd.Schema(categorical=[kd.Categorical("c", 100_000)])
    layer = EmbeddingCollection(schema, 32, quotient_remainder={"operation": operation, "collisions": 300}, seed=1)
    layer.build()
    vectors = whole_tables(layer)["c"]
    # U(-s, s) with s² = 1/n. The reference draws from U(√(1/n), 1), whose mean is .5.
    assert abs(vectors.mean()) < 0.1 * vectors.std() and 0.9 < vectors.std() / np.sqrt(1e-5 / 3) < 1.1


def functional(layer):
    inputs = keras.Input((SCHEMA.width,), dtype="int32")
    flat = keras.layers.Flatten()(layer(inputs))
    return kd.models.SparseModel(inputs, keras.layers.Dense(1, kernel_initializer="ones")(flat))


OPTIONS = {
    "mult": {"quotient_remainder": {"operation": "mult", "threshold": 100}},
    "concat": {"quotient_remainder": {"operation": "concat", "threshold": 100}},
    "mixed": {"embedding_dim": {"big": 2, "small": 8, "tags": 4}, "output_dim": 8},
    "both": {
        "embedding_dim": {"big": 2, "small": 8, "tags": 4},
        "output_dim": 8,
        "quotient_remainder": {"operation": "concat", "threshold": 100, "collisions": 16},
    },
    "bfloat16": {"table_dtype": "bfloat16"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rule"),
    [("both", "sgd"), ("both", "rowwise_adagrad"), ("mult", "adagrad"), ("mixed", "rowwise_adagrad")]
    + [
        pytest.param(kind, rule, marks=pytest.mark.soak)
        for kind, rules in {
            "mult": ("sgd", "rowwise_adagrad"), "concat": ("sgd", "adagrad", "rowwise_adagrad"), "mixed": ("sgd", "adagrad"),
            "both": ("adagrad",),
        }.items()
        for rule in rules
    ],
)  # fmt: skip
def test_the_sparse_step_trains_compressed_tables_as_a_dense_optimizer_would(kind, rule):
    x, y = ids(12, seed=3), np.random.default_rng(4).random((12, 1)).astype("float32")
    sparse = functional(EmbeddingCollection(SCHEMA, **{"embedding_dim": 8, "seed": 5, **OPTIONS[kind]}))
    sparse.compile(rule, loss="mse")
    inputs = keras.Input((SCHEMA.width,), dtype="int32")
    same = EmbeddingCollection(SCHEMA, **{"embedding_dim": 8, "seed": 5, **OPTIONS[kind]})
    dense = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(same(inputs))))
    rules = {
        "sgd": kd.optimizers.SGD,
        "adagrad": kd.optimizers.Adagrad,
        "rowwise_adagrad": kd.optimizers.RowwiseAdagrad,
    }
    dense.compile(rules[rule](), loss="mse")
    for model in (sparse, dense):
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(sparse.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["mult", "both", "bfloat16", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("concat", "mixed"))]
)
def test_compressed_models_survive_saving(kind, tmp_path):
    schema = kd.Schema(dense=["d"], categorical=SCHEMA.categorical)
    options = dict(OPTIONS[kind])
    widths, dim = options.pop("embedding_dim", 8), options.pop("output_dim", 8)
    model = kd.models.DLRM(schema, widths, [4, dim], [4, 1], embedding_options=options, seed=0)
    model.compile("adagrad")
    batch = {"dense": np.ones((16, 1), "float32"), "sparse": ids()}
    label = np.arange(16) % 2
    model.fit(batch, label, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0), rtol=1e-6)
    losses = [m.fit(batch, label, epochs=2, verbose=0, shuffle=False).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_dlrm_takes_mixed_dimensions_and_dcn_compressed_tables():
    schema = kd.Schema(categorical=SCHEMA.categorical)
    widths = mixed_dimensions(schema, 8)
    assert widths == {"big": 2, "small": 8, "tags": 2}
    model = kd.models.DLRM(schema, widths, top_mlp=[4, 1])
    assert model.embeddings.compute_output_shape((5, schema.width)) == (5, 4, 8)
    assert model.predict({"sparse": ids()}, verbose=0).shape == (16, 1)
    dcn = kd.models.DCNv2(schema, widths, 1, [4], embedding_options={"table_dtype": "bfloat16"})
    assert dcn.embeddings.tables[0].dtype == "bfloat16"
    assert dcn.predict({"sparse": ids()}, verbose=0).shape == (16, 1)


def test_mixed_dimensions_follow_the_rule():
    schema = kd.Schema(categorical=[kd.Categorical(n, size) for n, size in [("b", 10**4), ("a", 100), ("c", 10**7)]])
    # 16 · (100/n)^.3: 4.02 and .50, the latter raised to 1.
    assert mixed_dimensions(schema, 16, power_of_two=False) == {"b": 4, "a": 16, "c": 1}
    assert mixed_dimensions(schema, 12) == {"b": 4, "a": 16, "c": 1}  # 12 → 2^round(3.58)
    assert set(mixed_dimensions(schema, 16, temperature=0).values()) == {16}
    with pytest.raises(ValueError, match="temperature=-1"):
        mixed_dimensions(schema, 16, -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quotient_remainder": {"collisions": 1}}, "collisions=1"),
        ({"quotient_remainder": {"operation": "xor"}}, "'xor'"),
        ({"quotient_remainder": {"colisions": 4}}, "'colisions'"),
        ({"quotient_remainder": {"operation": "concat"}, "embedding_dim": 5}, "odd width 5"),
        ({"table_dtype": "int8"}, "'int8'"),
        ({"output_dim": 0}, "output_dim=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingCollection(SCHEMA, **arguments)
    with pytest.raises(ValueError, match="'bogus'"):
        kd.models.DLRM(kd.Schema(categorical=SCHEMA.categorical), embedding_options={"bogus": 1})


# -- hashed ids ------------------------------------------------------------------------------------------------------

HASHED = kd.Schema(
    categorical=[kd.Categorical("user", 50, hotness=2, hashed=True), kd.Categorical("city", 5, oov=4)],
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 2**32), min_size=1, max_size=20))
def test_host_and_graph_fold_ids_alike(values):
    values = np.array(values, "int64")
    folded = fold(values)
    assert (folded >= 0).all() and (folded < 2**31).all() and (fold(folded) == folded).all()
    given_ids = folded.astype("int32") if JAX else values
    np.testing.assert_array_equal(ops.convert_to_numpy(fold_in_graph(ops.convert_to_tensor(given_ids))), folded)


def test_hashing_spreads_ids_evenly():
    rows = ops.convert_to_numpy(bucket(ops.arange(100_000, dtype="int32") * 64, 100))
    counts = np.bincount(rows, minlength=100)
    # 1000 expected in each; sd 31.
    assert len(counts) == 100 and 850 < counts.min() and counts.max() < 1150
    # The same on every backend and for ever: tables are saved by row.
    assert ops.convert_to_numpy(bucket(ops.convert_to_tensor(np.array([0, 7, 2**31 - 1], "int32")), 1000)).tolist() == [
        0, 270, 248,
    ]  # fmt: skip


@pytest.mark.slow
def test_unbounded_ids_are_packed_looked_up_and_trained():
    wide = [[2**40, 3], [2**62 + 1], [], [5, 2**31]]
    batch = HASHED.pack({"user": wide, "city": [0, 1, 2, 3]})
    assert batch["sparse"].max() < 2**31 and (batch["sparse"][2] == [-1, -1, 2]).all()
    raw = np.array([[2**40, 3, 0], [2**62 + 1, -1, 1], [-1, -1, 2], [5, 2**31, 3]])
    model = kd.models.DLRM(HASHED, 4, top_mlp=[32, 1], seed=0)
    model.compile("adagrad", count_out_of_range=True)
    packed = model.predict(batch, verbose=0)
    np.testing.assert_array_equal(model.predict({"sparse": raw}, verbose=0), packed)
    before = model.embedding_tables()["user"]
    history = model.fit({"sparse": raw}, np.array([0, 1, 0, 1]), verbose=0).history
    assert history["ids_out_of_range"] == [0]
    changed = (model.embedding_tables()["user"] != before).any(axis=1).sum()
    assert 1 <= changed <= 5
    # Negative ids and ids beyond a bounded vocabulary are still out of range.
    bad = np.array([[-2, 3, 5]])
    history = model.evaluate({"sparse": bad}, np.array([0]), verbose=0, return_dict=True)
    assert history["ids_out_of_range"] == 2


def test_hashed_columns_are_checked_and_stored(tmp_path):
    with pytest.raises(ValueError, match="'user': id -5 in row 1"):
        HASHED.pack({"user": [[1], [-5]], "city": [0, 1]})
    with pytest.raises(ValueError, match="needs a vocabulary_size"):
        kd.Categorical("user", hashed=True)
    with pytest.raises(TypeError, match="hashed=1"):
        kd.Categorical("user", 5, hashed=1)
    with pytest.raises(ValueError, match="share table 'user' but give hashed"):
        kd.Schema(categorical=[HASHED.categorical[0], kd.Categorical("last", 50, table="user")])
    assert kd.Schema.from_json(HASHED.to_json()) == HASHED
    wide = np.array([[2**40, -1, 3], [9, 2**33, 0]])
    with kd.data.PackedWriter(tmp_path / "log", HASHED) as writer:
        writer.append("train", {"sparse": wide}, np.array([0, 1]))
    stored = next(iter(kd.data.open(tmp_path / "log").split("train").batches(2)))[0]["sparse"]
    np.testing.assert_array_equal(stored, fold(wide))
    preprocessor = kd.data.Preprocessor.identity(HASHED)
    np.testing.assert_array_equal(
        preprocessor.transform({"user": [[2**40], [9, 2**33]], "city": ["3", "0"]})["sparse"], stored
    )


# -- bfloat16 tables -------------------------------------------------------------------------------------------------


def test_rounding_keeps_the_expectation_and_infinities():
    values = np.random.default_rng(0).normal(size=(50_000, 4)).astype("float32")
    rounded = round_stochastically(ops.convert_to_tensor(values), ops.arange(50_000, dtype="int32"), 1)
    assert keras.backend.standardize_dtype(rounded.dtype) == "bfloat16"
    error = (ops.convert_to_numpy(ops.cast(rounded, "float32")) - values) / np.abs(values)
    assert np.abs(error).max() < 2**-7
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size)
    again = round_stochastically(ops.convert_to_tensor(values), ops.arange(50_000, dtype="int32"), 2)
    assert (
        ops.convert_to_numpy(ops.cast(again, "float32")) != ops.convert_to_numpy(ops.cast(rounded, "float32"))
    ).any()
    odd = np.array([[np.inf, -np.inf, np.nan, 0.0, 1.0]], "float32")
    got = ops.convert_to_numpy(
        ops.cast(round_stochastically(ops.convert_to_tensor(odd), ops.zeros(1, "int32"), 0), "float32")
    )
    np.testing.assert_array_equal(got, odd)


def test_small_updates_of_bfloat16_tables_are_not_lost():
    schema = kd.Schema(categorical=[kd.Categorical("c", 400)])
    layer = EmbeddingCollection(schema, 4, table_dtype="bfloat16")
    inputs = keras.Input((1,), dtype="int32")
    outputs = keras.layers.Dense(1, kernel_initializer="ones", trainable=False)(keras.layers.Flatten()(layer(inputs)))
    model = kd.models.SparseModel(inputs, outputs)
    layer.set_embedding_tables({"c": np.ones((400, 4), "float32")})
    # Each step moves an element by 1e-4; neighbours of 1 in bfloat16 are 2^-8 and 2^-7 away.
    model.compile(kd.optimizers.SGD(1e-4), loss=lambda y, p: ops.sum(p))
    rows = np.tile(np.arange(400), 100)[:, None]
    model.fit(rows, np.zeros((40_000, 1)), batch_size=400, shuffle=False, verbose=0)
    moved = 1 - layer.embedding_tables()["c"]
    assert 0.009 < moved.mean() < 0.011


def test_bfloat16_tables_take_half_the_memory_and_keep_float32_slots():
    layer = EmbeddingCollection(SCHEMA, 8, table_dtype="bfloat16")
    model = functional(layer)
    model.compile("adagrad", loss="mse")
    assert keras.backend.standardize_dtype(layer.tables[0].dtype) == "bfloat16"
    slots = [v for v in model.optimizer.rows.variables if "accumulator" in v.path]
    assert [keras.backend.standardize_dtype(v.dtype) for v in slots] == ["float32"]
    assert all(rows.dtype == np.float32 for rows in layer.embedding_tables().values())

"""EmbeddingCollection against independent NumPy pooling, and one behaviour for ids on every backend."""

import keras
import numpy as np
import pytest
from helpers.calls import called
from helpers.pooling import pooled
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_dlrm.initializers import StackedTables
from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.schema.schema import Categorical, Schema

BACKEND = keras.backend.backend()


def check(layer, schema, sparse, weights=None):
    batch = {"sparse": sparse} if weights is None else {"sparse": sparse, "weights": weights}
    layer.build()
    got = ops.convert_to_numpy(called(layer, batch))
    expected = pooled(layer.embedding_tables(), schema, sparse, weights)
    if layer.concatenate:
        width = sum(layer.widths[c.table_name] for c in schema.categorical)
        expected = np.array([np.concatenate(vectors) for vectors in expected]).reshape(len(sparse), width)
    else:
        expected = np.array(expected).reshape(len(sparse), len(schema.categorical), -1)
    assert got.shape == layer.compute_output_shape(sparse.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@st.composite
def problems(draw):
    columns, widths = [], {}
    concatenate = draw(st.booleans())
    for i in range(draw(st.integers(1, 4))):
        shared = draw(st.sampled_from([None, *[c.name for c in columns if c.table is None]]))
        first = next((c for c in columns if c.name == shared), None)
        size = first.vocabulary_size if first else draw(st.integers(1, 6))
        columns.append(
            Categorical(
                f"c{i}",
                size,
                hotness=draw(st.integers(1, 3)),
                combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
                table=shared,
                oov=first.oov if first else draw(st.none() | st.integers(0, size - 1)),
            )
        )
        widths.setdefault(columns[-1].table_name, draw(st.integers(1, 3)))
    schema = Schema(categorical=columns, weighted=draw(st.booleans()))
    seed = draw(st.integers(0, 2**20))
    # Few different batch sizes: on JAX each is compiled.
    sparse = np.random.default_rng(seed).integers(-3, 9, size=(draw(st.sampled_from([1, 4])), schema.width))
    weights = np.random.default_rng(seed + 1).uniform(0.1, 2, size=sparse.shape).astype("float32")
    return schema, widths if concatenate else 2, concatenate, sparse, weights if schema.weighted else None


# Each example has shapes of its own, which JAX compiles.
@settings(max_examples=8 if BACKEND == "jax" else 25)
@given(problems())
def test_any_schema_pools_as_numpy_does(problem):
    schema, widths, concatenate, sparse, weights = problem
    check(EmbeddingCollection(schema, widths, concatenate, seed=1), schema, sparse, weights)


# -- ids --

SCHEMA = Schema(categorical=[Categorical("a", 4, oov=1), Categorical("b", 3, hotness=2, oov=None), Categorical("c", 5)])


@pytest.fixture(scope="module")
def layer():
    made = EmbeddingCollection(SCHEMA, 2, seed=0)
    made.build()
    return made


def test_ids_out_of_range_take_the_oov_row_or_contribute_nothing(layer):
    tables = layer.embedding_tables()
    wrong = np.array([[4, 3, 3, 5], [-2, -7, 3, -5], [2**31 - 1, 2**31 - 1, -1, 2**31 - 1], [-(2**31)] * 4])
    got = ops.convert_to_numpy(layer({"sparse": wrong}))
    for row in got:
        np.testing.assert_array_equal(row, [tables["a"][1], np.zeros(2), tables["c"][0]])


def test_padding_contributes_nothing_whatever_the_oov_row(layer):
    assert not ops.convert_to_numpy(layer({"sparse": np.full((3, 4), -1)})).any()


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no 64-bit integers: it truncates ids before a layer sees them")
def test_ids_beyond_32_bits_are_out_of_range_and_not_truncated(layer):
    tables = layer.embedding_tables()
    for far in (2**32, 2**32 + 1, 2**40 + 2, -(2**32) + 1, 2**63 - 1, -(2**63)):
        got = ops.convert_to_numpy(layer({"sparse": np.full((1, 4), far)}))[0]
        np.testing.assert_array_equal(got, [tables["a"][1], np.zeros(2), tables["c"][0]])
        assert int(layer.count_out_of_range({"sparse": np.full((1, 4), far)})) == 4


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX truncates")
def test_jax_keeps_the_low_32_bits_of_an_id_as_its_documentation_says(layer):
    tables = layer.embedding_tables()
    got = ops.convert_to_numpy(layer({"sparse": np.full((1, 4), 2**32 + 2)}))[0]
    np.testing.assert_array_equal(got[2], tables["c"][2])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_every_integer_dtype_is_taken(layer, dtype):
    ids = np.array([[0, 2, 1, 4], [3, 0, 0, 100]], dtype)
    check(layer, SCHEMA, ids)
    assert int(layer.count_out_of_range({"sparse": ids})) == 1


def test_the_largest_unsigned_id_is_out_of_range(layer):
    ids = np.full((1, 4), 2**32 - 1, "uint32")
    tables = layer.embedding_tables()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(ids))[0], [tables["a"][1], np.zeros(2), tables["c"][0]])
    assert int(layer.count_out_of_range(ids)) == 4


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_ids_that_are_not_integers_are_refused(layer, dtype):
    with pytest.raises(TypeError, match=rf"{dtype}.*integers"):
        layer({"sparse": np.zeros((1, 4), dtype)})


def test_out_of_range_ids_are_counted(layer):
    ids = np.array([[0, -1, 2, 4], [4, 3, -2, 0], [3, 0, 0, 99]])
    assert int(layer.count_out_of_range({"sparse": ids})) == 4


def test_wrong_widths_are_refused(layer):
    for batch, words in (
        ({"sparse": np.zeros((2, 3), int)}, r"'sparse'.*\(2, 3\).*\(B, 4\)"),
        ({"sparse": np.zeros(4, int)}, r"'sparse'.*\(4,\)"),
        ({"sparse": np.zeros((2, 4), int), "weights": np.zeros((2, 3))}, r"'weights'.*\(2, 3\)"),
        ({"dense": np.zeros((2, 4))}, "'sparse' is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            layer(batch)



def test_plain_ids_are_the_batch_without_its_dict(layer):
    ids = np.array([[1, 0, 2, 3]])
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(ids)), ops.convert_to_numpy(layer({"sparse": ids})))


# -- pooling --


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_weights_of_padding_do_not_matter_even_if_not_finite(combiner):
    schema = Schema(categorical=[Categorical("a", 4, hotness=3, combiner=combiner)], weighted=True)
    layer = EmbeddingCollection(schema, 2, seed=0)
    ids = np.array([[1, 2, -1], [-1, -1, -1]])
    weights = np.array([[0.5, 2.0, np.nan], [np.inf, np.nan, 3.0]], "float32")
    check(layer, schema, ids, weights)
    assert not ops.convert_to_numpy(layer({"sparse": ids, "weights": weights}))[1].any()


@pytest.mark.parametrize("combiner", ["mean", "sqrtn"])
def test_weights_of_zero_give_zero_and_not_nan(combiner):
    schema = Schema(categorical=[Categorical("a", 4, hotness=2, combiner=combiner)], weighted=True)
    layer = EmbeddingCollection(schema, 2, seed=0)
    assert not ops.convert_to_numpy(layer({"sparse": np.array([[1, 2]]), "weights": np.zeros((1, 2), "float32")})).any()


def test_repeated_ids_of_one_example_count_twice():
    schema = Schema(
        categorical=[Categorical("a", 4, hotness=3), Categorical("b", 4, hotness=3, combiner="mean", table="a")]
    )
    check(EmbeddingCollection(schema, 2, seed=0), schema, np.array([[2, 2, -1, 3, 3, 1]]))


def test_shared_tables_are_one_table():
    schema = Schema(categorical=[Categorical("a", 4), Categorical("b", 4, table="a"), Categorical("c", 3)])
    layer = EmbeddingCollection(schema, 2)
    layer.build()
    assert layer.count_params() == (4 + 3) * 2 and list(layer.embedding_tables()) == ["a", "c"]



def test_mixed_precision_pools_float32_rows_and_gives_bfloat16():
    schema = Schema(categorical=[Categorical("a", 50, hotness=20, combiner="mean")])
    layer = EmbeddingCollection(schema, 4, seed=0, dtype="mixed_bfloat16", init_scale=1.0)
    ids = np.random.default_rng(0).integers(0, 50, (6, 20))
    got = layer({"sparse": ids})
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16" and layer.tables[0].dtype == "float32"
    expected = np.array(pooled(layer.embedding_tables(), schema, ids), "float32")
    # Rounded once, at the end: half a unit of 8 bits of mantissa.
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(got, "float32")), expected, rtol=2**-8, atol=1e-6)


# -- logical tables --

MIXED = Schema(
    categorical=[Categorical("a/b", 4), Categorical("b", 3, hotness=2), Categorical("100%", 5), Categorical("d", 2)]
)
WIDTHS = {"a/b": 2, "b": 3, "100%": 2, "d": 3}


def test_initial_rows_have_the_references_range():
    schema = Schema(categorical=[Categorical("a", 400), Categorical("b", 25)])
    layer = EmbeddingCollection(schema, 64, seed=0)
    layer.build()
    for rows in layer.embedding_tables().values():
        half = np.sqrt(1 / len(rows))
        assert 0.99 * half < rows.max() <= half and -half <= rows.min() < -0.99 * half
        assert abs(rows.mean()) < 5 * half / np.sqrt(3 * rows.size)
        assert abs(rows.std() * np.sqrt(3) / half - 1) < 0.05
    fixed = EmbeddingCollection(schema, 64, seed=0, init_scale=0.01)
    fixed.build()
    assert 0.0099 < max(rows.max() for rows in fixed.embedding_tables().values()) <= 0.01


def test_logical_tables_can_be_read_and_replaced_by_name():
    layer = EmbeddingCollection(MIXED, WIDTHS, concatenate=True, seed=0)
    layer.build()
    before = layer.embedding_tables()
    assert {n: t.shape for n, t in before.items()} == {"a/b": (4, 2), "b": (3, 3), "100%": (5, 2), "d": (2, 3)}
    new = {"100%": np.full((5, 2), 7.0), "b": np.arange(9.0).reshape(3, 3)}
    layer.set_embedding_tables(new)
    for name, rows in layer.embedding_tables().items():
        np.testing.assert_array_equal(rows, new.get(name, before[name]))
    layer.embedding_tables()["b"][:] = 0  # a copy
    np.testing.assert_array_equal(layer.embedding_tables()["b"], new["b"])
    check(layer, MIXED, np.array([[3, 2, 1, 4, 1], [0, -1, 0, 9, 0]]))


def test_bad_tables_are_refused_and_change_nothing():
    layer = EmbeddingCollection(MIXED, WIDTHS, concatenate=True, seed=0)
    layer.build()
    before = layer.embedding_tables()
    with pytest.raises(KeyError, match=r"'zzz'.*a/b"):
        layer.set_embedding_tables({"zzz": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"'d'.*\(3, 3\).*\(2, 3\)"):
        layer.set_embedding_tables({"a/b": np.zeros((4, 2)), "d": np.zeros((3, 3))})
    for name, rows in layer.embedding_tables().items():
        np.testing.assert_array_equal(rows, before[name])


def test_saved_tables_are_logical_ones(tmp_path):
    """A file written by a stack of one width layout is read by another, by table name."""
    h5py = pytest.importorskip("h5py")

    def model(schema, widths):
        symbol = keras.Input((schema.width,), dtype="int32")
        return keras.Model(symbol, EmbeddingCollection(schema, widths, concatenate=True, name="tables")(symbol))

    first = model(MIXED, WIDTHS)
    first.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5") as file:
        found = []
        file.visititems(lambda name, item: found.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    assert sorted(found) == [(2, 3), (3, 3), (4, 2), (5, 2)]
    reordered = Schema(categorical=list(reversed(MIXED.categorical)))
    second = model(reordered, WIDTHS)
    second.load_weights(tmp_path / "w.weights.h5")
    for name, rows in second.get_layer("tables").embedding_tables().items():
        np.testing.assert_array_equal(rows, first.get_layer("tables").embedding_tables()[name])
    other = EmbeddingCollection(Schema(categorical=[Categorical("x", 3)]), 2)
    with pytest.raises(ValueError, match="'d'.*'x'"):
        other.load_own_variables({"d": np.zeros((2, 3))})



@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: EmbeddingCollection(Schema(["a"])), ["no categorical"]),
        (lambda: EmbeddingCollection(SCHEMA, 0), ["embedding_dim=0", "'a'"]),
        (lambda: EmbeddingCollection(SCHEMA, True), ["embedding_dim=True"]),
        (lambda: EmbeddingCollection(SCHEMA, {"a": 2, "b": 3}), ["'c'", "one width"]),
        (lambda: EmbeddingCollection(SCHEMA, {"a": 2, "b": 3, "c": 2, "d": 2}), ["'d'"]),
        (lambda: EmbeddingCollection(SCHEMA, {"a": 2, "b": 3, "c": 2}), ["[2, 3]", "concatenate=True"]),
        (lambda: EmbeddingCollection(Schema(categorical=[Categorical("a")])), ["'a'", "vocabulary_size"]),
        (
            lambda: EmbeddingCollection(Schema(categorical=[Categorical(n, 2**31 - 1) for n in "ab"])),
            [str(2**32 - 2), "width"],
        ),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_initial_rows_are_the_same_in_parts_and_in_another_stack():
    """A table's first rows depend on the seed and its place in the schema, not on what it is stacked with."""
    sizes = [5, 1, 9, 4]
    whole = StackedTables(sizes, [0, 1, 2, 3], seed=3)
    values = whole.draw(np.random.default_rng(0), (sum(sizes), 2))
    for rows in (1, 3, 7, 100):
        parts = list(whole.parts(2, rows))
        assert [len(part) for _, part in parts] == [min(rows, 19 - first) for first, _ in parts]
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), values)
    third = StackedTables([9], [2], seed=3).draw(np.random.default_rng(0), (9, 2))
    np.testing.assert_array_equal(third, values[6:15])
    layer = EmbeddingCollection(SCHEMA, 3, seed=3)
    layer.build()
    by_width = EmbeddingCollection(SCHEMA, {"a": 3, "b": 2, "c": 3}, concatenate=True, seed=3)
    by_width.build()
    np.testing.assert_array_equal(layer.embedding_tables()["a"], by_width.embedding_tables()["a"])

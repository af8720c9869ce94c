"""Rows in fewer bytes: how far they are from what they were, and what a table of them costs."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_dlrm as kd
from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.embeddings.quantized import KINDS, dequantize, layout, quantize, row_bytes
from keras_dlrm.export.compare import compare_tables
from keras_dlrm.export.tables.stored_tables import StoredTables, untrained_rows
from keras_dlrm.models import DLRM
from keras_dlrm.schema.schema import Categorical, Schema

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=FINITE)


@given(ROWS)
def test_int8_is_off_by_half_a_step_of_a_127th_of_the_largest_magnitude(rows):
    quantized = quantize(rows, "int8")
    # bfloat16 has 8 bits: rounded up, a scale is at most 2⁻⁷ larger.
    step = np.abs(rows).max(axis=1, keepdims=True, initial=0) / 127 * (1 + 2**-7)
    assert (np.abs(dequantize(quantized) - rows) <= step * 0.5001 + 1e-38).all()
    assert quantized.codes.dtype == np.int8 and (quantized.codes >= -127).all()


@given(ROWS)
def test_int4_is_off_by_half_a_step_of_a_15th_of_the_row_s_range(rows):
    quantized = quantize(rows, "int4")
    low = rows.min(axis=1, keepdims=True, initial=np.inf)
    high = rows.max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        step = (high - low + np.abs(low) * 2**-7) / 15 * (1 + 2**-7)
        # What float32 itself loses where the offset is much larger than the range.
        rounding = 4 * np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))
        assert (np.abs(dequantize(quantized) - rows) <= step * 0.5001 + rounding + 1e-38).all()


@given(ROWS.filter(lambda rows: (np.abs(rows) <= 65504).all()), st.sampled_from(["float16", "bfloat16", "float32"]))
def test_floats_are_the_nearest_ones(rows, kind):
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[kind]
    np.testing.assert_array_equal(dequantize(quantize(rows, kind)), rows.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 5, 16])
def test_rows_of_zeros_are_exactly_zeros_and_parts_equal_the_whole(kind, width):
    rows = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    rows[3] = 0
    whole = quantize(rows, kind)
    assert (dequantize(whole)[3] == 0).all()
    for name, array in whole.arrays.items():
        parts = [quantize(part, kind).arrays[name] for part in (rows[:2], rows[2:])]
        np.testing.assert_array_equal(np.concatenate(parts), array)
        assert (array.dtype, array.shape) == (layout(kind, width)[name][0], (7, layout(kind, width)[name][1]))
    assert sum(array.nbytes for array in whole.arrays.values()) == 7 * row_bytes(kind, width)


def test_bytes_of_a_row_of_sixteen():
    shares = {kind: row_bytes(kind, 16) / 64 for kind in KINDS}
    assert shares == {"float32": 1, "bfloat16": 0.5, "float16": 0.5, "int8": 18 / 64, "int4": 12 / 64}
    assert shares["int8"] <= 0.3


def test_two_codes_lie_in_a_byte():
    quantized = quantize(np.array([[0, 4, 7, 11, 15]], np.float32), "int4")
    assert quantized.codes.dtype == np.uint8
    assert [f"{byte:02x}" for byte in quantized.codes[0]] == ["b0", "f4", "07"]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (np.zeros((1, 2)), "int2", "tables='int2' is unknown"),
        (np.zeros(2), "int8", r"shape \(2,\); they must be \(n, D\)"),
        (np.array([[0.0], [np.nan]]), "int8", "row 1 has a value of nan.*int8"),
        (np.array([[70000.0]]), "float16", "row 0 has a value of 70000.*at most 65504.*'float32'"),
        (np.array([[3e38]]), "int4", "row 0 has a value of 3.*at most 1.70141e"),
    ],
)
def test_what_cannot_be_stored_is_refused(rows, kind, message):
    with pytest.raises(ValueError, match=message):
        quantize(rows, kind)


def test_a_diverged_table_is_stored_as_it_is_in_float():
    rows = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    for kind in ("float32", "bfloat16"):
        np.testing.assert_array_equal(dequantize(quantize(rows, kind)), rows)


# -- tables of a model -----------------------------------------------------------------------------------------------

SCHEMA = Schema(
    categorical=[Categorical("a", 300, oov=2, oov_rows=2), Categorical("b", 200, oov=None), Categorical("c", 100, hashed=True)]
)


def trained(touched, **options):
    """A model of which the given rows of each table were changed."""
    model = DLRM(SCHEMA, 16, None, [4, 1], seed=3, **options)
    tables = model.embedding_tables()
    for rows in tables.values():
        rows[touched] += 1
    model.set_embedding_tables(tables)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_training_did_not_touch_are_found(dtype):
    found = untrained_rows(trained([0, 7, 50], embedding_options={"table_dtype": dtype}).embeddings)
    assert {name: np.flatnonzero(~rows).tolist() for name, rows in found.items()} == {n: [0, 7, 50] for n in "abc"}


def test_pruned_ids_are_answered_as_unseen_ones_are():
    model = trained([0, 7, 50])
    tables = StoredTables(model, prune="untrained")
    assert tables.pruned_rows == 600 - 9 - 2  # the OOV rows of "a" stay
    got = model_rows(model, tables, [[7, 7, 7], [9, 9, 9], [3, -1, -1]])
    live = model_rows(model, StoredTables(model), [[7, 7, 7], [2, -1, -1], [3, -1, -1]])
    np.testing.assert_array_equal(got, live)
    assert tables.nbytes < 0.1 * StoredTables(model).nbytes


def model_rows(model, tables, ids):
    with taped(tables):
        return keras_numpy(model.embeddings(np.array(bucketed(ids))))


def bucketed(ids):
    """Ids of the hashed column for which that column's row is the id itself, for the test to say which row it means."""
    from keras_dlrm.embeddings.table_rows import bucket

    rows = keras_numpy(bucket(np.arange(5000, dtype=np.int32), np.int32(100)))
    return [[a, b, c if c < 0 else int(np.flatnonzero(rows == c)[0])] for a, b, c in ids]


def keras_numpy(x):
    return np.asarray(kd.models.click_model.ops.convert_to_numpy(x))


def test_a_map_that_costs_more_than_it_saves_is_not_made():
    model = trained(slice(0, 95))
    assert StoredTables(model, "int4", {"a": np.arange(300) > 250}).pruned_rows == 0
    assert StoredTables(model, "float32", {"a": np.arange(300) > 250}).pruned_rows == 49


@pytest.mark.parametrize(
    ("prune", "error", "message"),
    [
        ("unused", ValueError, "prune='unused' is unknown; use 'untrained'"),
        ({"z": np.zeros(3, bool)}, KeyError, r"unknown table 'z'.*\['a', 'b', 'c'\]"),
        ({"b": np.zeros(200)}, TypeError, "mask of table 'b' has dtype float64; it must be bool"),
        ({"b": np.zeros(3, bool)}, ValueError, r"mask of table 'b' has shape \(3,\); it must be \(200,\)"),
    ],
)
def test_masks_are_checked(prune, error, message):
    with pytest.raises(error, match=message):
        StoredTables(trained([0]), prune=prune)


def test_frozen_tables_are_stored_too():
    model = trained([0])
    model.embeddings.trainable = False
    batch = {"sparse": np.array([[1, 1, 1]])}
    with taped(StoredTables(model, "int4")):
        coarse = keras_numpy(model.embeddings(batch))
    assert np.abs(coarse - keras_numpy(model.embeddings(batch))).max() > 0


@pytest.mark.slow
def test_tables_are_compared_by_auc_and_entropy():
    schema = Schema(categorical=[Categorical("a", 50), Categorical("b", 50)])
    batches = list(kd.data.synthetic.PlantedClickLog(schema, seed=0).batches(2000, n_batches=4))
    model = DLRM(schema, 16, None, [8, 1], seed=0)
    model.compile("adam")
    for batch, label in batches:
        model.fit(batch, label, batch_size=100, verbose=0)
    rows = {(r["tables"], r["pruned_rows"] > 0): r for r in compare_tables(model, batches, prune="untrained")}
    live = rows["live", False]
    assert live["share"] == 1 and live["auc_change"] == live["ne_change"] == 0
    assert rows["float32", False]["ne_change"] == pytest.approx(0, abs=1e-7)
    assert rows["float32", False]["auc_change"] == pytest.approx(0, abs=1e-5)  # half of the last bit lets neighbors change places
    assert abs(rows["int8", False]["auc_change"]) < 5e-4
    assert 0 < abs(rows["int4", False]["ne_change"]) < 1e-2
    assert rows["int8", False]["share"] == pytest.approx(18 / 64 * 106 / 100)


def test_comparing_checks_its_arguments():
    model = trained([0])
    with pytest.raises(ValueError, match="kinds='int7' is unknown"):
        compare_tables(model, [], ["int7"])
    with pytest.raises(TypeError, match="expected a model of kd.models, not str"):
        compare_tables("model", [])

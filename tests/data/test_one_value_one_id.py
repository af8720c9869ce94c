"""A value has one id, whatever file, frame, request or message it comes in, and whatever stands alongside it."""

import enum
import json
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.kernels.string_hash import buckets
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.raw_columns import Where
from keras_dlrm.data.streaming.messages import Decoder
from keras_dlrm.data.streaming.stream import text_frame
from keras_dlrm.data.tables.files import open_table
from keras_dlrm.schema.hashing import fold

tf = pytest.importorskip("tensorflow")
from keras_dlrm.export.saved_model.columns import RawColumns  # noqa: E402
from keras_dlrm.export.signatures import raw_columns  # noqa: E402
from keras_dlrm.serving.wire.json_tensors import array_from_json  # noqa: E402
from keras_dlrm.serving.wire.tensors import Tensor, from_proto  # noqa: E402

pytestmark = pytest.mark.neutral

# An unseen value's id is a hash of its normal form: nothing need be fitted to tell two values apart.
ROWS, KNOWN = 2**20, ["true", "7", "2.5", "x"]
SCHEMA = kd.Schema(
    categorical=[
        kd.Categorical("c", oov_rows=ROWS),
        kd.Categorical("h", 1000, hashed=True),
        kd.Categorical("m", table="c", oov_rows=ROWS, hotness=2),
    ],
    label="y",
)
FITTED = kd.data.Preprocessor.fit(SCHEMA, pl.DataFrame({"c": KNOWN, "m": [[]] * 4}, schema_overrides={"m": pl.List(pl.String)}))
STRING = Tensor("c", 7, (-1,), "c:0")

INTEGERS = st.integers(-1, 9) | st.integers(2**53 - 2, 2**53 + 2) | st.integers(2**63 - 2, 2**63 + 2) | st.integers(0, 2**64 - 1)
# Python writes these in another way than files of numbers do.
TINY = {0.00001: "0.00001", 1.5e-6: "1.5e-6", -2.25e-7: "-2.25e-7", 3e-9: "3e-9"}
FRACTIONS = st.integers(-80, 80).map(lambda n: n + 0.5) | st.sampled_from([*TINY])
TEXTS = st.text("abTe+. ä", min_size=1, max_size=3) | st.sampled_from(
    ["007", "+3", "2.50", "1e3", "trues", "True ", "yes", "NaN", "٣.0"]
)
MISSING = st.none()


def normal(value):
    """Form in which a value is compared, from the documented rules alone."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value == -1:
        return None
    if isinstance(value, str):
        return "٣" if value == "٣.0" else value
    if value in TINY:
        return TINY[value]
    return str(int(value)) if value == int(value) else str(value)


def expected(values):
    """Ids in `c` and `h`."""
    found = []
    for key in map(normal, values):
        if key is None:
            found.append([-1, -1])
            continue
        small, large = (int(buckets(pl.Series([key]), n)[0]) for n in (ROWS, 2**31))
        number = int(key) if re.fullmatch(r"[+-]?[0-9]+", key) else None
        known = ROWS + KNOWN.index(key) if key in KNOWN else small
        found.append([known, large if number is None or number >= 2**63 else int(fold([number])[0])])
    return found


# -- ways in ----------------------------------------------------------------------------------------------------------


def transformed(values):
    batch = FITTED.transform({"c": values, "h": values, "m": [None] * len(values)})
    return batch["sparse"][:, :2].tolist()


def from_frame(frame):
    return FITTED.transform(frame)["sparse"][:, :2].tolist()


def from_file(path):
    """Through the code that preprocesses and scores tables."""
    work = Columns(SCHEMA, {}, FITTED.vocabularies, labeled=False)
    with ThreadPoolExecutor(1) as executor:
        blocks = list(open_table(path).blocks(work.names))
        parts = [work.work(block, executor).sparse for block in blocks]
        assert not any(block.faults for block in blocks), [block.faults.first() for block in blocks]
    return np.concatenate(parts)[:, :2].tolist()


def from_parquet(folder, series):
    frame = pl.DataFrame({"c": series, "h": series, "m": [[]] * len(series)}, schema_overrides={"m": pl.List(pl.String)})
    frame.write_parquet(folder / "t.parquet")
    assert from_file(folder / "t.parquet") == from_frame(frame)
    return from_frame(frame)


def from_csv(folder, texts):
    pl.DataFrame({"c": texts, "h": texts, "m": ""}, schema_overrides={"c": pl.String, "h": pl.String}).write_csv(folder / "t.csv")
    return from_file(folder / "t.csv")


def feature(value):
    if value is None:
        return tf.train.Feature()
    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def examples(values):
    """Serialized Examples, each value in the list of its kind."""
    rows = [tf.train.Features(feature={"c": feature(v), "h": feature(v)}) for v in values]
    return [tf.train.Example(features=row).SerializeToString() for row in rows]


def from_tfrecord(folder, values):
    with tf.io.TFRecordWriter(str(folder / "t.tfrecord")) as writer:
        for message in examples(values):
            writer.write(message)
    return from_file(folder / "t.tfrecord")


def from_messages(format, messages):
    decoder = Decoder(SCHEMA, format, ["y", "c", "h", "m"] if format == "csv" else None)
    rows = text_frame(FITTED, decoder.names, [decoder(message) for message in messages])
    return FITTED.transform(rows, where=Where())["sparse"][:, :2].tolist()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """First step of the signatures `raw` and `classify` of an exported model."""
    module = RawColumns(FITTED, raw_columns(FITTED), tmp_path_factory.mktemp("v"))
    spec = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[spec])
    def texts(values):
        return module.pack({"c": values, "h": values, "m": tf.fill([tf.shape(values)[0], 2], "")})["sparse"]

    @tf.function(input_signature=[spec])
    def parsed(messages):
        return module.pack(module.parse(messages))["sparse"]

    return lambda kind, values: fold({"texts": texts, "parsed": parsed}[kind](tf.constant(values)).numpy())[:, :2].tolist()


# -- forms ------------------------------------------------------------------------------------------------------------


def written(draw, value):
    """A form of a value as text."""
    if value is None:
        return draw(st.sampled_from(["", "-1", "-1.0"]))
    if isinstance(value, bool):
        return draw(st.sampled_from(["true", "True", "TRUE"] if value else ["false", "False", "FALSE"]))
    if isinstance(value, int):
        return draw(st.sampled_from(["", ".0", ".00"]).map(str(value).__add__))
    return TINY.get(value, str(value))


def plain(draw, value):
    """A form of a value in Python or NumPy."""
    if value is None:
        return draw(st.sampled_from([None, float("nan"), np.float32("nan"), Decimal("sNaN"), pd.NA, pd.NaT, -1, np.ma.masked, ""]))
    forms = [value, written(draw, value)]
    if isinstance(value, bool):
        forms.append(np.bool_(value))
    elif isinstance(value, int):
        forms += [Decimal(value), Decimal(f"{value}.00"), *([float(value)] if abs(value) <= 2**53 else [])]
        forms += [np.int64(value) if value < 2**63 else np.uint64(value)]
    elif isinstance(value, str):
        forms.append(enum.StrEnum("Known", {"MEMBER": value}).MEMBER)
    elif isinstance(value, float):
        forms += [np.float32(value), Decimal(f"{value:.12f}")]
    return draw(st.sampled_from(forms))


def spoken(draw, value):
    """A form of a value in JSON, for messages and for REST."""
    return value if value is not None else draw(st.sampled_from([None, float("nan"), "", -1]))


def typed(values, of):
    """Typed columns of Polars and pandas."""
    if of == "bool":
        yield pl.Series(values, dtype=pl.Boolean)
        yield pd.Series(values, dtype="boolean")
        yield pd.Series(pd.Categorical(values))
    elif of == "int":
        yield pl.Series([None if v is None else Decimal(v) for v in values], dtype=pl.Decimal(38, 0))
        yield pl.Series([None if v is None else Decimal(v) for v in values], dtype=pl.Decimal(30, 2))
        yield pd.Series(values, dtype=object)
        if all(v is None or v < 2**63 for v in values):
            yield pl.Series(values, dtype=pl.Int64)
            yield np.ma.array([v or 0 for v in values], mask=[v is None for v in values], dtype=np.int64)
            yield pd.Series(values, dtype="Int64")
            yield pd.Series(pd.Categorical(pd.array(values, dtype="Int64")))
        elif all(v is None or v >= 0 for v in values):
            yield pl.Series(values, dtype=pl.UInt64)
            unsigned = np.array([v or 0 for v in values], np.uint64)
            yield pd.Series(pd.arrays.IntegerArray(unsigned, np.array([v is None for v in values])))
        if all(v is None or abs(v) <= 2**53 for v in values):
            yield pl.Series(values, dtype=pl.Float64, strict=False)
            yield np.array([np.nan if v is None else v for v in values], np.float64)
        yield np.ma.array([v or 0 for v in values], mask=[v is None for v in values], dtype=object)
    elif of == "fraction":
        yield pl.Series(values, dtype=pl.Float32)
        yield pl.Series(values, dtype=pl.Float64)
        yield pl.Series([None if v is None else Decimal(str(v)) for v in values], dtype=pl.Decimal(30, 12))
        yield pd.Series(values, dtype="Float64")
    else:
        yield pl.Series(values, dtype=pl.String).cast(pl.Categorical)
        yield pd.Series(values, dtype="string")
        yield pd.Series(pd.Categorical(values))
        yield np.ma.array([v or "" for v in values], mask=[v is None for v in values])
        yield np.array(values, np.dtypes.StringDType(na_object=None))


class Arrow:
    """A table that only Arrow's interface gives away."""

    def __init__(self, frame):
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema=None):
        return self._frame.__arrow_c_stream__(requested_schema)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_a_value_has_one_id_over_all_ways_in(graph, tmp_path_factory, data):
    kinds = {"bool": st.booleans(), "int": INTEGERS, "fraction": FRACTIONS, "text": TEXTS}
    of = data.draw(st.sampled_from([*kinds, "mixed"]))
    values = data.draw(st.lists(MISSING | (st.one_of(*kinds.values()) if of == "mixed" else kinds[of]), min_size=2, max_size=8))
    folder, ids = tmp_path_factory.mktemp("t"), expected(values)

    # Files, frames and columns whose values are of one type.
    for series in typed(values, of) if of != "mixed" else ():
        assert transformed(series) == ids
        if isinstance(series, pl.Series):
            assert from_parquet(folder, series) == ids
            frame = pl.DataFrame({"c": series, "h": series, "m": pl.Series([None] * len(values), dtype=pl.String)})
            assert from_frame(Arrow(frame)) == from_frame(frame.lazy()) == ids
        elif isinstance(series, pd.Series):
            assert from_frame(pd.DataFrame({"c": series, "h": series, "m": [None] * len(values)})) == ids
    # Values in different forms beside each other.
    forms = [plain(data.draw, value) for value in values]
    assert transformed(forms) == ids
    assert transformed(np.fromiter(forms, object, len(forms))) == ids
    assert [row for form in forms for row in transformed([form])] == ids
    # Text, in files and in the graph.
    texts = [written(data.draw, value) for value in values]
    assert from_csv(folder, texts) == ids
    assert transformed(texts) == transformed(np.array(texts)) == ids
    assert graph("texts", texts) == graph("parsed", examples(texts)) == ids
    assert graph("texts", from_proto("c", tf.make_tensor_proto(texts), 2**20)) == ids
    # Records hold integers of 64 bits and floats of 32, and may tell one row's kind from another's.
    records = [text if isinstance(v, (bool, str)) or (v or 0) >= 2**63 else v for v, text in zip(values, texts, strict=True)]
    assert from_tfrecord(folder, records) == from_messages("example", [*map(message, records)]) == ids
    # JSON.
    said = [spoken(data.draw, value) for value in values]
    assert graph("texts", array_from_json(STRING, json.loads(json.dumps(said)), "")) == ids
    assert from_messages("json", [json.dumps({"c": v, "h": v, "m": None, "y": True}).encode() for v in said]) == ids
    assert from_messages("csv", [f'0,"{t}","{t}",\n'.encode() for t in texts]) == ids


def message(value):
    features = {"c": feature(value), "h": feature(value), "m": tf.train.Feature(), "y": feature(1)}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_a_value_in_a_list_has_the_id_that_it_has_alone(data):
    values = st.booleans() | INTEGERS | FRACTIONS | TEXTS
    rows = data.draw(st.lists(st.lists(values, min_size=1, max_size=2), min_size=1, max_size=3))
    padded = [[key for key, _ in expected(row)] + [-1] * (2 - len(row)) for row in rows]
    forms = [[plain(data.draw, value) for value in row] for row in rows]
    joined = ["|".join(written(data.draw, value) for value in row) for row in rows]
    masked = np.ma.array([[*row, 0][:2] for row in forms], dtype=object, mask=[[False, len(row) < 2] for row in rows])
    nothing = [None] * len(rows)
    for form in (forms, joined, masked, pd.Series(forms), np.array([*forms, None], object)[:-1]):
        assert FITTED.transform({"c": nothing, "h": nothing, "m": form})["sparse"][:, 2:].tolist() == padded
    messages = [json.dumps({"c": None, "h": None, "m": row, "y": 0}).encode() for row in rows]
    decoder = Decoder(SCHEMA)
    frame = text_frame(FITTED, decoder.names, [decoder(m) for m in messages])
    assert FITTED.transform(frame)["sparse"][:, 2:].tolist() == padded


def test_normal_forms_do_not_change_again_and_leave_the_columns_as_they_were():
    given = pl.Series("x", ["TRUE", "3.0", "-0.0", "", None, "٣.0", "2.50", "True"])
    once = normal_form.texts(given, "x")
    assert once.to_list() == ["true", "3", "0", None, None, "٣", "2.50", "true"]
    assert normal_form.texts(once, "x").to_list() == once.to_list()
    assert given.to_list() == ["TRUE", "3.0", "-0.0", "", None, "٣.0", "2.50", "True"]


@pytest.mark.parametrize(
    ("column", "error", "words"),
    [
        ("Oslo", TypeError, "column 'c' is 'Oslo', a str; give a sequence"),
        ({"a": 1}, TypeError, "column 'c' is .*, a dict"),
        (np.array(3), TypeError, "column 'c' is .*, a ndarray"),
        (np.array(["\ud800"]), ValueError, "column 'c' holds half of a surrogate pair"),
    ],
)
def test_what_is_no_column_of_values_is_refused_by_name(column, error, words):
    with pytest.raises(error, match=words):
        kd.data.Preprocessor.fit(kd.Schema(categorical=[kd.Categorical("c")]), {"c": column})

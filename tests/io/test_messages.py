"""Messages → rows of text: what is taken, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.streaming.messages import BadMessage, Decoder
from keras_dlrm.data.streaming.stream import pack, text_frame

pytestmark = pytest.mark.neutral

SCHEMA = kd.Schema(
    dense=["price"],
    categorical=[kd.Categorical("user", 8), kd.Categorical("tags", 5, hotness=3)],
    label="click",
)
PREPROCESSOR = kd.data.Preprocessor(SCHEMA)
GOOD = {"price": 1.5, "user": 3, "tags": [1, 2], "click": 1}


def packed(rows, bad):
    names = Decoder(SCHEMA).names
    frame = text_frame(PREPROCESSOR, names, rows)
    return pack(PREPROCESSOR, frame, ["t:0"] * len(rows), range(len(rows)), bad, unit="offset")


def test_json_and_csv_of_one_row_pack_alike():
    rows = [Decoder(SCHEMA)(json.dumps(GOOD).encode()), Decoder(SCHEMA, "csv")(b"1,1.5,3.0,1|2\r\n")]
    batch, label = packed(rows, BadRows())
    np.testing.assert_array_equal(batch["sparse"], [[3, 1, 2, -1]] * 2)
    np.testing.assert_array_equal(batch["dense"], [[1.5]] * 2)
    np.testing.assert_array_equal(label, [1, 1])


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_a_csv_record_ends_at_line_ends_of_csv_only(mark):
    schema = kd.Schema(categorical=[kd.Categorical("user")], label="click")
    assert Decoder(schema, "csv")(f"1,a{mark}b\n".encode()) == [f"a{mark}b", "1"]
    assert Decoder(schema, "csv")(f'1,"a\r\n{mark}b"\r\n'.encode()) == [f"a\r\n{mark}b", "1"]


def test_null_is_missing_and_true_is_one():
    batch, label = packed([Decoder(SCHEMA)(b'{"price": null, "user": null, "tags": null, "click": true}')], BadRows())
    assert batch["sparse"].tolist() == [[-1, -1, -1, -1]] and batch["dense"].tolist() == [[0.0]] and label[0] == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1]", "must be an object"),
        (b'{"price": 1, "user": 1, "tags": []}', "'click' is missing"),
        (json.dumps({**GOOD, "price": [1, 2]}).encode(), "must be one value: a number or null"),
        (json.dumps({**GOOD, "user": {"a": 1}}).encode(), "must be one value"),
        (json.dumps({**GOOD, "tags": [[1]]}).encode(), "must be one value"),
        (json.dumps({**GOOD, "user": "\ud800"}).encode(), "half of a surrogate pair"),
        (json.dumps({**GOOD, "price": "\udfff"}).encode(), "half of a surrogate pair"),
        (json.dumps({**GOOD, "tags": ["a", "\ud800x"]}).encode(), "half of a surrogate pair"),
        (json.dumps({**GOOD, "tags": "a|\ud800x"}).encode(), "half of a surrogate pair"),
    ],
)
def test_what_is_no_row_is_refused_with_the_reason(message, said):
    with pytest.raises(BadMessage) as caught:
        Decoder(SCHEMA)(message)
    assert said in caught.value.reason


@pytest.mark.parametrize("message", [b"1,2", b"1,2,3,4,5", b"1,1,1,1\n1,1,1,1", b"\xff,1,1,1", b'1,"1,1,1'])
def test_a_csv_message_is_one_record_with_all_fields(message):
    with pytest.raises(BadMessage):
        Decoder(SCHEMA, "csv")(message)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_row_or_a_bad_message(message):
    for form in ("json", "csv"):
        try:
            assert len(Decoder(SCHEMA, form)(message)) == 4
        except BadMessage:
            pass


@given(st.lists(st.sampled_from(["good", "price", "user", "tags", "click"]), min_size=1, max_size=40))
def test_bad_rows_are_counted_in_order_and_the_others_kept(kinds):
    wrong = {"price": "x", "user": 8, "tags": [1, 2, 3, 4], "click": 2}
    rows = [Decoder(SCHEMA)(json.dumps({**GOOD, **({k: wrong[k]} if k in wrong else {})}).encode()) for k in kinds]
    bad = BadRows("skip")
    found = packed(rows, bad)
    assert (0 if found is None else len(found[1])) == kinds.count("good")
    at = [i for i, kind in enumerate(kinds) if kind != "good"]
    assert [row.row for row in bad.examples] == at and bad.skipped == len(at)
    if at:
        with pytest.raises(ValueError, match=rf"^t:0, offset {at[0]}.*{kinds[at[0]]}"):
            packed(rows, BadRows())


def test_options_are_checked():
    with pytest.raises(ValueError, match="format='avro' is unknown"):
        Decoder(SCHEMA, "avro")
    with pytest.raises(ValueError, match="'click' occurs 0 times"):
        Decoder(SCHEMA, "csv", ["price", "user", "tags"])
    with pytest.raises(ValueError, match="name the fields of CSV"):
        Decoder(SCHEMA, "json", ["price"])

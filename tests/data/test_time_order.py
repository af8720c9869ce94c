"""Keys of times compare as the times do, and cuts are those of sorted keys."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from keras_dlrm.data.preprocessor import time_order
from keras_dlrm.data.tables import parts

pytestmark = pytest.mark.neutral


def ranks(values):
    found, lost = time_order.keys(values, "x")
    assert not lost.any()
    return np.argsort(found, kind="stable").tolist()


def test_iso_texts_compare_as_python_reads_them():
    texts = [
        "2024-02-29", "2024-02-28T23:59:59.999999", "2024-02-29T00:00:00.5", "2024-02-29T03:00:00+02:00", "1969-12-31",
        "2024-02-28T23:59:59Z", "2024-02-29 00:30", "1970-01-01T00:00:00-00:30", "0001-01-01", "9999-12-31T23:59",
    ]  # fmt: skip

    def moment(text):
        read = dt.datetime.fromisoformat(text)
        return read if read.tzinfo else read.replace(tzinfo=dt.UTC)

    expected = sorted(range(len(texts)), key=lambda i: moment(texts[i]))
    assert ranks(pl.Series(texts)) == expected
    stamps = pl.Series([moment(text) for text in texts])
    assert (time_order.keys(stamps, "x")[0] == time_order.keys(pl.Series(texts), "x")[0]).all()


def test_numbers_compare_as_floats_and_texts_of_them_are_the_same():
    numbers = [0.0, -0.0, 1e-300, -1e-300, 2.5, -7, 1.7e18, -1e300, 2**52, 3]
    assert ranks(pl.Series(numbers)) == np.argsort(np.array(numbers) + 0.0, kind="stable").tolist()
    assert (time_order.keys(pl.Series(numbers), "x")[0] == time_order.keys(pl.Series(map(repr, numbers)), "x")[0]).all()


@pytest.mark.parametrize(
    "text", ["", "soon", "nan", "inf", "2024-02-30", "2024-1-1", "24:00", "2024-01-01T24:00", "2024-01-01T10", "2024-01-01Z", None]
)
def test_what_is_no_time(text):
    assert time_order.keys(pl.Series([text, "2024-01-01"], dtype=pl.String), "x")[1].tolist() == [True, False]


def test_a_column_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="x holds Duration.*, which is no time; it must be a time, such as 2024-01-31"):
        time_order.keys(pl.Series([dt.timedelta(1)]), "x")


@pytest.mark.parametrize("kinds", [1, 3, 50, 10**6, 2**63])
def test_a_cut_is_at_its_place_in_sorted_keys(kinds, monkeypatch):
    monkeypatch.setattr(parts, "_ROWS", 700)
    keys = np.random.default_rng(0).integers(0, kinds, 2000, dtype=np.uint64)
    ordered = np.sort(keys)
    for place in (0, 1, 999, 1500, 1999):
        key, less, equal = parts._at(lambda first, last: keys[first:last], 2000, place)
        assert key == ordered[place]
        assert (less, equal) == ((keys < key).sum(), (keys == key).sum())


@pytest.mark.parametrize(("split", "rows"), [
    ({"train": 1.0}, [100]), ({"train": 0.5, "test": 0.5}, [50, 50]), ({"train": 0.9, "valid": 0.1, "test": 0.0}, [90, 10, 0]),
    ({"train": 0.0, "test": 1.0}, [0, 100]), ({"train": 0.0, "valid": 0.0, "test": 1.0}, [0, 0, 100]),
])  # fmt: skip
def test_parts_of_no_rows_and_of_all(split, rows):
    found = parts.by_keys(split, parts.random_keys(3), 100, "x")
    assert list(found.rows.values()) == rows
    assert [len(part) for part in found.of(0, 100).values()] == rows


def test_cuts_stay_within_ties():
    keys = np.repeat(np.arange(20, dtype=np.uint64), 7)
    found = parts.by_keys({"train": 0.8, "valid": 0.1, "test": 0.1}, lambda first, last: keys[first:last], 140, "x")
    assert found.rows == {"train": 112, "valid": 14, "test": 14}
    found = parts.by_keys({"train": 0.77, "test": 0.23}, lambda first, last: keys[first:last], 140, "x")
    assert found.rows == {"train": 105, "test": 35}, "108 is nearer to 105 than to 112"


def test_random_keys_are_those_of_splitmix64():
    # The first numbers of the published generator, seeded with the mixed seed.
    def mixed(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    start = mixed(12)
    expected = [mixed((start + k * 0x9E3779B97F4A7C15) % 2**64) >> 1 for k in range(1, 6)]
    keys = parts.random_keys(12)
    assert keys(0, 5).tolist() == expected
    assert keys(2, 4).tolist() == expected[2:4]

"""Hashes of texts: those of the published test vectors, of TensorFlow, and of every release of this package."""

import random

import numpy as np
import polars as pl
import pytest

from keras_dlrm.data.kernels import string_hash
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.hashing import fold
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

# Appendix A of the paper, and the vectors alongside its reference implementation: message 0, 1, … n - 1, by length n.
PUBLISHED = {
    0: 0x726FDB47DD0E0E31,
    1: 0x74F839C593DC67FD,
    2: 0x0D6C8009D9A94F5A,
    3: 0x85676696D7FB7E2D,
    15: 0xA129CA6149BE45E5,
    63: 0x958A324CEB064572,
}
TEXTS = ["", "a", "Rome", "12345678", "123456789", "ä", "日本", "\0", "x" * 1000]
# What TensorFlow's operation gave for them modulo 2**31.
PINNED = [1561202225, 655444170, 1770450658, 1256863723, 34537213, 1960968459, 1511717649, 333211645, 1832030761]


def hashed(values, **fields):
    column = Categorical("c", 1000, hashed=True, **fields)
    return Preprocessor.identity(Schema(categorical=[column])).transform({"c": values})["sparse"].tolist()


def test_siphash_gives_the_published_vectors_for_messages_of_mixed_lengths():
    lengths = [*PUBLISHED, *reversed(PUBLISHED)]
    data = b"".join(bytes(range(n)) for n in lengths)
    assert string_hash.siphash(data, np.array(lengths)).tolist() == [PUBLISHED[n] for n in lengths]


def test_values_are_pinned_for_all_time():
    assert string_hash.buckets(pl.Series(TEXTS), 2**31).tolist() == PINNED


def test_tensorflow_computes_the_same_in_a_graph():
    import tensorflow as tf

    draw = random.Random(0)
    texts = TEXTS + ["".join(draw.choices("abcäß日0", k=draw.randrange(40))) for _ in range(500)]
    for count in (1, 7, 1000, 2**31, 2**63 - 1):
        expected = tf.strings.to_hash_bucket_strong(texts, count, key=list(string_hash.KEY)).numpy()
        np.testing.assert_array_equal(string_hash.buckets(pl.Series(texts), count), expected)


def test_a_text_is_hashed_by_itself():
    texts = pl.Series([f"value {i}" for i in range(50)])
    whole = string_hash.buckets(texts, 1000)
    np.testing.assert_array_equal(np.concatenate([string_hash.buckets(texts[i : i + 7], 1000) for i in range(0, 50, 7)]), whole)
    assert string_hash.buckets(texts.clear(), 10).tolist() == []


def test_hashed_columns_take_texts_beside_integers():
    assert hashed(["Rome", "", None, "日本", "Rome"]) == [[1770450658], [-1], [-1], [1511717649], [1770450658]]
    assert hashed(pl.Series(["Rome"], dtype=pl.Categorical)) == [[1770450658]]
    assert hashed([["Rome", "7"], []], hotness=2) == [[1770450658, 7], [-1, -1]]
    assert hashed(["Rome|7", "-1"], hotness=2) == [[1770450658, 7], [-1, -1]]
    assert hashed(["1.5", "-x"])[0] == string_hash.buckets(pl.Series(["1.5"]), 2**31).tolist() == hashed([1.5])[0]


def test_whole_numbers_in_a_hashed_column_are_folded_as_ever_however_they_arrive():
    numbers = np.array([0, 7, 2**31 - 1, 2**31, 2**40, 2**63 - 1])
    expected = [[i] for i in fold(numbers).tolist()]
    assert expected[4] == [1612487936]  # as the first release folds it
    for values in (numbers, numbers.tolist(), numbers.astype(str).tolist(), [*numbers.astype(str).tolist(), "x"]):
        assert hashed(values)[: len(expected)] == expected
    assert hashed([7.0, None]) == hashed(["7.0", ""]) == [[7], [-1]]


@pytest.mark.parametrize("values", [[-2], [-2.0], ["-2"]])
def test_numbers_that_are_no_ids_are_refused_in_a_hashed_column(values):
    with pytest.raises(ValueError, match=r"row 0, column 'c': value .* must be an integer id: 0 … 2\^63-1, which is hashed"):
        hashed(values)


def test_hashed_texts_fall_evenly_into_rows():
    ids = string_hash.buckets(pl.Series([f"user-{i}" for i in range(100_000)]), 100)
    assert abs(np.bincount(ids, minlength=100) - 1000).max() < 200

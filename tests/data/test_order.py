"""The order of rows: a permutation, cut into batches and shards that lose and repeat nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.data.packed.order import BatchCut, ShuffledOrder

pytestmark = pytest.mark.neutral


@given(rows=st.integers(0, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_a_shuffled_order_is_a_permutation(rows, seed, epoch):
    order = ShuffledOrder(rows, seed, epoch)[0:rows]
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


@given(rows=st.integers(1, 2**45), place=st.floats(0, 1), count=st.integers(0, 300), seed=st.integers(0, 9))
def test_any_part_of_a_huge_order_is_computed_alone(rows, place, count, seed):
    order = ShuffledOrder(rows, seed, 3)
    start = int(place * max(rows - count, 0))
    part = order[start : start + count]
    assert len(part) == min(count, rows - start)
    assert len(np.unique(part)) == len(part) and (part >= 0).all() and (part < rows).all()
    if len(part):
        np.testing.assert_array_equal(part[1:], order[start + 1 : start + len(part)])


def test_orders_of_seeds_and_epochs_are_unrelated_and_uniform():
    rows = 20_000
    orders = [ShuffledOrder(rows, seed, epoch)[0:rows] for seed in (0, 1) for epoch in (0, 1)]
    for i, order in enumerate(orders):
        for other in [np.arange(rows), *orders[:i]]:
            # Equal places of two random permutations are Poisson-distributed with mean 1.
            assert (order == other).sum() < 8
            assert abs(np.corrcoef(order, other)[0, 1]) < 5 / np.sqrt(rows)
        # Distances of neighbors fill 100 bins evenly: χ² with 99 degrees of freedom.
        counts = np.histogram(np.diff(order) % rows, 100, (0, rows))[0]
        assert 50 < ((counts - rows / 100) ** 2 / (rows / 100)).sum() < 165


def test_each_row_is_equally_often_at_each_place():
    rows, epochs = 12, 3000
    counts = np.zeros((rows, rows))
    for epoch in range(epochs):
        counts[np.arange(rows), ShuffledOrder(rows, 5, epoch)[0:rows]] += 1
    expected = epochs / rows
    assert ((counts - expected) ** 2 / expected).sum() < 121 + 5 * np.sqrt(2 * 121)


CUTS = {
    "rows": st.integers(0, 200),
    "batch_size": st.integers(1, 17),
    "workers": st.integers(1, 5),
    "last": st.sampled_from(["keep", "drop", "pad"]),
}


@given(**CUTS)
def test_shards_are_disjoint_cover_all_and_make_up_the_unsharded_steps(rows, batch_size, workers, last):
    left = rows % (batch_size * workers)
    if last == "keep" and left % workers:
        with pytest.raises(ValueError, match=f"last step has {left} of {rows} rows"):
            BatchCut(rows, batch_size, last, (0, workers))
        return
    cuts = [BatchCut(rows, batch_size, last, (index, workers)) for index in range(workers)]
    whole = BatchCut(rows, batch_size * workers, last)
    assert {len(cut) for cut in cuts} == {len(whole)}
    seen = []
    for step in range(len(whole)):
        parts = [range(*cut.places(step)) for cut in cuts]
        assert sum(map(list, parts), []) == list(range(*whole.places(step)))
        assert all(len(part) <= batch_size for part in parts) and max(map(len, parts)) - min(map(len, parts)) <= 1
        if step < len(whole) - 1 or last == "drop":
            assert {len(part) for part in parts} == {batch_size}
        seen += sum(map(list, parts), [])
    assert seen == list(range(rows - left if last == "drop" else rows))


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (3, "must be a pair of integers"),
        ((0, 1, 2), "must be a pair of integers"),
        ((0.0, 2), "must be a pair of integers"),
        ((True, 2), "must be a pair of integers"),
        ((0, 0), "number of workers must be at least 1"),
        ((2, 2), r"index of one of 2 workers must be in \[0, 1\]"),
        ((-1, 2), r"must be in \[0, 1\]"),
    ],
)
def test_bad_shards_are_named(shard, message):
    with pytest.raises(ValueError, match=message):
        BatchCut(10, 2, "keep", shard)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="last='fill' is unknown; use one of"):
        BatchCut(10, 2, "fill")
    for size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            BatchCut(10, size)

"""The log of the trainers: the planted one, over tables of any size."""

import numpy as np
import pytest

from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.sharding.trainer import ClickLog, click_schema


def test_small_tables_have_the_planted_log():
    batch, label = ClickLog(900, seed=3).batch(2, 31)
    expected, expected_label = PlantedClickLog(click_schema(900), seed=3).batch(2, 31)
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])
    np.testing.assert_array_equal(label, expected_label)


@pytest.mark.parametrize("rows", [2**20 + 1, 2**23, 300_000_007])
def test_ids_lie_over_the_rows_of_large_tables(rows):
    schema = click_schema(rows)
    batch, _ = ClickLog(rows, seed=0).batch(0, 4096)
    first = 0
    for column in schema.categorical:
        ids = batch["sparse"][:, first : first + column.hotness]
        assert ids.min() >= -1 and ids.max() < column.vocabulary_size
        if column.name in ("item", "history", "user"):
            assert ids.max() > column.vocabulary_size // 3
        first += column.hotness
    assert batch["sparse"].dtype == np.int32

"""The clock and the arrays of the programs that race to an AUC."""

import clock
import numpy as np
import polars as pl
import pytest

from keras_dlrm.metrics.scores import auc

pytestmark = pytest.mark.neutral
COLUMNS = {"dense": ["x"], "categorical": {"user": 1, "tags": 2}, "label": "click", "counts": True}


@pytest.fixture
def now(monkeypatch):
    """Seconds that the test lets pass."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "time", lambda: now[0])
    return now


def test_the_clock_stands_still_while_the_test_part_is_scored(now):
    labels = np.array([0, 1, 1, 0])
    measured = clock.Clock(90.0, labels, target=0.9, limit=60)

    def predict():
        now[0] += 50
        return np.array([0.1, 0.9, 0.5, 0.5])

    with measured.part("fit"):
        now[0] += 2
        assert not measured.ended(predict)
        now[0] += 3
        assert measured.ended(lambda: labels)
    assert measured.parts["fit"] == 5
    assert measured.points == [(12.0, 0.875), (15.0, 1.0)]


def test_a_program_ends_when_its_time_is_up(now):
    assert not clock.Clock(41.0, np.array([0, 1]), target=0.9, limit=60).ended(lambda: np.zeros(2))
    assert clock.Clock(39.0, np.array([0, 1]), target=0.9, limit=60).ended(lambda: np.zeros(2))


def test_its_auc_is_that_of_the_package():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 500), random.integers(0, 20, 500) / 20
    assert clock.auc(labels, scores) == pytest.approx(auc(labels, scores))


def test_peers_get_ids_of_the_training_part_and_scaled_counts(tmp_path):
    train = pl.DataFrame({"x": [0, 3, None], "user": ["a", "b", "a"], "tags": [["p"], ["q", "p"], []], "click": [0, 1, 0]})
    for part in clock.PARTS:
        train.write_parquet(tmp_path / f"{part}.parquet")
    other = pl.DataFrame({"x": [-1, 3], "user": ["b", "z"], "tags": [["z", "q"], ["q"]], "click": [1, 1]})
    other.write_parquet(tmp_path / "test.parquet")
    parts, rows = clock.encoded(tmp_path, COLUMNS)
    assert rows == {"user": 3, "tags": 3}
    np.testing.assert_array_equal(parts["train"][1], [[1, 1, 0], [2, 2, 1], [1, 0, 0]])
    np.testing.assert_array_equal(parts["test"][1], [[2, 2, 0], [0, 2, 0]])
    logs = np.log([1, 4, 1])
    np.testing.assert_allclose(parts["train"][0][:, 0], (logs - logs.mean()) / logs.std(ddof=1), rtol=1e-6)
    np.testing.assert_allclose(parts["test"][0][:, 0], parts["train"][0][:2, 0])

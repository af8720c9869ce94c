"""Random logs and multi-hot bags."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm.data as data
from keras_dlrm.data.synthetic import MLPERF_V2_HOTNESS, MultiHot, RandomClickLog, mlperf_v2_shape
from keras_dlrm.data.synthetic.mixing import permuted
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(dense=["x"], categorical=[Categorical("a", 50), Categorical("tags", 30, hotness=3)])
ONE_HOT = Schema(dense=["x"], categorical=[Categorical("a", 50), Categorical("b", 1000)])


def collect(log, rows, batch_size=500, part="train"):
    parts = list(log.batches(batch_size, rows=rows, part=part))
    return {k: np.concatenate([p[0][k] for p in parts]) for k in parts[0][0]}, np.concatenate([p[1] for p in parts])


def test_random_rows_do_not_depend_on_the_batch_size_and_parts_differ():
    one, two = (
        collect(RandomClickLog(SCHEMA, zipf={"a": 1.0}), 9000, 9000),
        collect(RandomClickLog(SCHEMA, zipf={"a": 1.0}), 9000, 701),
    )
    for name in one[0]:
        np.testing.assert_array_equal(one[0][name], two[0][name])
    np.testing.assert_array_equal(one[1], two[1])
    assert (collect(RandomClickLog(SCHEMA), 100, part="test")[0]["sparse"] != one[0]["sparse"][:100]).any()


def test_random_columns_have_the_asked_distributions():
    batch, label = collect(RandomClickLog(SCHEMA, zipf={"a": 1.0}, click_rate=0.1), 40_000, 8192)
    SCHEMA.validate(batch)
    a = np.sort(np.bincount(batch["sparse"][:, 0], minlength=50))[::-1]
    assert a[0] / a[9] == pytest.approx(10.0, rel=0.3)
    tags = batch["sparse"][:, 1:]
    even = np.bincount(tags[tags != PADDING], minlength=30)
    assert even.max() / even.min() < 1.25
    assert set((tags != PADDING).sum(1)) == {1, 2, 3}
    assert (
        0.0 <= batch["dense"].min()
        and batch["dense"].max() < 1.0
        and batch["dense"].mean() == pytest.approx(0.5, abs=0.01)
    )
    assert label.mean() == pytest.approx(0.1, abs=0.01)
    normal = collect(RandomClickLog(SCHEMA, dense="normal"), 10_000)[0]["dense"]
    assert normal.std() == pytest.approx(1.0, abs=0.05) and normal.mean() == pytest.approx(0.0, abs=0.05)


def test_random_log_is_written_with_a_best_of_one_half(tmp_path):
    log = RandomClickLog(Schema(categorical=[Categorical("a", 5)], weighted=True), click_rate=0.2)
    seen = []
    written = log.write(tmp_path / "log", {"train": 10_000, "test": 100}, progress=lambda *a: seen.append(a))
    assert written.best["auc"] == pytest.approx(0.5) and written.best["logloss"] == pytest.approx(log.best_logloss)
    assert len(data.open(tmp_path / "log").split("train")) == 10_000 and seen[-1] == (10_100, 10_100, "test")


def test_bad_random_settings_are_clear_errors(tmp_path):
    for arguments, message in [
        ({"zipf": -1.0}, "zipf of table 'a'=-1.0"),
        ({"dense": "cauchy"}, "dense='cauchy'"),
        ({"click_rate": 1.5}, "click_rate=1.5"),
        ({"seed": "x"}, "seed='x'"),
    ]:
        with pytest.raises(ValueError, match=message):
            RandomClickLog(SCHEMA, **arguments)
    with pytest.raises(KeyError, match="names table 'z'"):
        RandomClickLog(SCHEMA, zipf={"z": 1.0})
    with pytest.raises(ValueError, match="split 'later'"):
        RandomClickLog(SCHEMA).write(tmp_path / "x", {"later": 3})
    with pytest.raises(ValueError, match="rows\\['train'\\]=-1"):
        RandomClickLog(SCHEMA).write(tmp_path / "x", {"train": -1})
    assert not (tmp_path / "x").exists()


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_permuted_is_a_permutation_of_any_size(size, key):
    assert sorted(permuted(np.arange(size), np.full(size, size), key).tolist()) == list(range(size))


# -- multi-hot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_an_id_always_brings_the_same_bag_and_comes_first(distribution):
    bags = MultiHot(ONE_HOT, {"a": 4, "b": 2}, distribution)
    batch, _ = collect(RandomClickLog(ONE_HOT), 5000, 5000)
    out = bags.transform(batch)
    bags.schema.validate(out)
    np.testing.assert_array_equal(out["sparse"][:, [0, 4]], batch["sparse"])
    for i in np.unique(batch["sparse"][:, 0]):
        assert len(np.unique(out["sparse"][out["sparse"][:, 0] == i, :4], axis=0)) == 1
    # Another batch, another object: the same bags.
    again = MultiHot(ONE_HOT, [4, 2], distribution).transform({k: v[::7] for k, v in batch.items()})
    np.testing.assert_array_equal(again["sparse"], out["sparse"][::7])
    assert (MultiHot(ONE_HOT, [4, 2], distribution, seed=1).transform(batch)["sparse"] != out["sparse"]).any()


def test_further_ids_follow_the_asked_distribution():
    schema = Schema(categorical=[Categorical("c", 20_000)])
    ids = np.arange(20_000)[:, None]
    uniform = MultiHot(schema, [6]).transform({"sparse": ids})["sparse"][:, 1:]
    counts = np.bincount(uniform.ravel() // 1000, minlength=20)
    assert counts.min() > 4700 and counts.max() < 5300
    pareto = MultiHot(schema, [6], "pareto").transform({"sparse": ids})["sparse"][:, 1:]
    # P(x < k) = 1 - (1 + k)^-shape, of which the part that wraps around is even.
    for k in (0, 1, 5):
        assert (pareto == k).mean() == pytest.approx((1 + k) ** -0.25 - (2 + k) ** -0.25, abs=0.005)
    assert np.corrcoef(uniform[:-1, 0], uniform[1:, 0])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_padding_gives_an_empty_bag_and_weights_follow_their_id():
    schema = Schema(categorical=[Categorical("a", 50), Categorical("b", 9)], weighted=True)
    batch = {
        "sparse": np.array([[3, -1], [-1, 8]], np.int32),
        "weights": np.array([[0.5, 0.0], [0.0, 2.0]], np.float32),
    }
    out = MultiHot(schema, [3, 1]).transform(batch)
    assert (out["sparse"][1, :3] == PADDING).all() and (out["sparse"][0, :3] >= 0).all()
    assert out["weights"].tolist() == [[0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 2.0]] and out["sparse"].dtype == np.int32


def test_the_benchmarks_shape_is_made_and_written(tmp_path):
    schema = mlperf_v2_shape(1e-5)
    source = RandomClickLog(schema).write(tmp_path / "one", {"train": 300, "test": 0})
    bags = MultiHot(schema, MLPERF_V2_HOTNESS)
    written = bags.write(source, tmp_path / "many")
    assert written.schema.width == 214 and len(written.split("train")) == 300 and len(written.split("test")) == 0
    want = bags.transform(source.split("train").arrays()[0])
    np.testing.assert_array_equal(written.split("train").arrays()[0]["sparse"], want["sparse"])
    (batch, label) = next(bags.batches(source.split("train"), 128))
    np.testing.assert_array_equal(batch["sparse"], want["sparse"][:128])


def test_bad_multi_hot_settings_are_clear_errors(tmp_path):
    for arguments, message in [
        (([3],), "1 sizes"),
        (([3, 0],), "hotness\\[1\\]=0"),
        (([3, 2], "zipf"), "distribution='zipf'"),
        (([3, 2], "pareto", 0.0), "shape=0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            MultiHot(ONE_HOT, *arguments)
    with pytest.raises(KeyError, match="'z'"):
        MultiHot(ONE_HOT, {"z": 3})
    with pytest.raises(ValueError, match="'tags' has hotness=3"):
        MultiHot(SCHEMA, [2, 2])
    with pytest.raises(ValueError, match="out of|range|id"):
        MultiHot(ONE_HOT, [2, 2]).transform({"dense": np.zeros((1, 1)), "sparse": np.array([[50, 0]])})
    other = RandomClickLog(SCHEMA).write(tmp_path / "log", {"train": 10})
    with pytest.raises(ValueError, match="another schema"):
        MultiHot(ONE_HOT, [2, 2]).write(other, tmp_path / "out")

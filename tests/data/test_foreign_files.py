"""MLPerf's, the reference's and TorchRec's files: read as they are, cut as their origins cut them, converted."""

import numpy as np
import pytest
from helpers.foreign_logs import CLASSIC, DAYS, ROWS, SIZES, TORCHREC, by_day, mlperf, npy, single

import keras_dlrm as kd
from keras_dlrm.schema.same_schema import check_same

pytestmark = pytest.mark.neutral

LOGS = {
    "mlperf": mlperf,
    "reference by day": by_day,
    "reference by day, uncompressed": lambda folder: by_day(folder, np.savez),
    "reference by day, column-major": lambda folder: by_day(folder, np.savez_compressed, "F"),
    "reference by day, column-major and uncompressed": lambda folder: by_day(folder, np.savez, "F", np.float64),
    "reference in one file": single,
}


@pytest.mark.parametrize("kind", LOGS)
def test_a_classic_log_is_cut_and_transformed_as_its_origin_does(tmp_path, kind):
    log = LOGS[kind](tmp_path)
    assert log.splits == ("train", "valid", "test") and list(log.schema.table_sizes.values()) == SIZES
    for name, part in CLASSIC.items():
        split = log.split(name)
        batch, label = split.arrays()
        assert len(split) == len(label) == len(part["y"]) and {a.dtype.name for a in batch.values()} == {
            "float32",
            "int32",
        }
        np.testing.assert_array_equal(label, part["y"])
        np.testing.assert_array_equal(split.labels, part["y"])
        np.testing.assert_array_equal(batch["sparse"], part["X_cat"])
        np.testing.assert_array_equal(batch["dense"], np.log(part["X_int"].astype(np.float32) + np.float32(1)))
        log.schema.validate(batch)


@pytest.mark.parametrize("kind", LOGS)
def test_batches_and_any_rows_are_those_of_the_whole(tmp_path, kind):
    split = LOGS[kind](tmp_path).split("train")
    for size in (1, 4, 30, 100):
        found = list(split.batches(size))  # before anything else has loaded the files
        assert [len(label) for _, label in found[:-1]] == [size] * (len(found) - 1)
        np.testing.assert_array_equal(np.concatenate([b["sparse"] for b, _ in found]), CLASSIC["train"]["X_cat"])
    rows = np.random.default_rng(0).integers(0, len(split), 64)  # across days, with repetitions
    batch, label = split.take(rows)
    np.testing.assert_array_equal(batch["sparse"], CLASSIC["train"]["X_cat"][rows])
    np.testing.assert_array_equal(label, CLASSIC["train"]["y"][rows])
    np.testing.assert_array_equal(split.take(slice(28, 34))[0]["sparse"], CLASSIC["train"]["X_cat"][28:34])
    assert len(split.take(slice(5, 5))[1]) == len(split.take(np.empty(0, int))[1]) == 0
    with pytest.raises(IndexError, match="row 47 of 47"):
        split.take(np.array([47]))


@pytest.mark.parametrize("kind", LOGS)
def test_a_foreign_log_is_converted_to_a_processed_directory(tmp_path, kind):
    log = LOGS[kind](tmp_path)
    seen = []
    written = log.write(tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert written.schema == log.schema and written.splits == log.splits and seen[-1] == (72, 72)
    for name in log.splits:
        (batch, label), (other, other_label) = log.split(name).arrays(), written.split(name).arrays()
        np.testing.assert_array_equal(label, other_label)
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize("kind", ["mlperf", "reference by day", "reference in one file"])
def test_ids_are_taken_modulo_max_ind_range(tmp_path, kind):
    LOGS[kind](tmp_path)
    if kind == "mlperf":
        log = kd.data.mlperf.open(tmp_path, max_ind_range=60)
    elif kind == "reference by day":
        log = kd.data.reference.open(tmp_path, max_ind_range=60)
    else:
        log = kd.data.reference.open(tmp_path / "kaggleAdDisplayChallenge_processed.npz", max_ind_range=60)
    assert list(log.schema.table_sizes.values()) == [min(n, 60) for n in SIZES]
    np.testing.assert_array_equal(log.split("train").arrays()[0]["sparse"], CLASSIC["train"]["X_cat"] % 60)


def test_torchrec_files_are_hashed_by_table_and_cut_the_other_way_round(tmp_path):
    log = npy(tmp_path)
    for name, part in TORCHREC.items():
        batch, label = log.split(name).arrays()
        np.testing.assert_array_equal(label, part["y"])
        np.testing.assert_array_equal(batch["sparse"], part["X_cat"] * 3 % np.array(SIZES))
        np.testing.assert_array_equal(batch["dense"], part["X_int"].astype(np.float32) / 7)
    assert isinstance(log.split("train").labels, np.ndarray)


def test_multi_hot_files_of_the_second_benchmark(tmp_path):
    npy(tmp_path)
    hotness = [1 + i % 3 for i in range(26)]
    for number, rows in enumerate(ROWS):
        random = np.random.default_rng(number)
        ids = {
            str(i): random.integers(0, n, (rows, h)).astype(np.int32)
            for i, (n, h) in enumerate(zip(SIZES, hotness, strict=True))
        }
        np.savez(tmp_path / f"day_{number}_sparse_multi_hot.npz", **ids)
    with pytest.raises(ValueError, match="say which with multi_hot"):
        kd.data.torchrec.open(tmp_path, SIZES)
    log = kd.data.torchrec.open(tmp_path, SIZES, multi_hot=True)
    assert [c.hotness for c in log.schema.categorical] == hotness and log.schema.width == sum(hotness)
    batch, label = log.split("test").take(np.array([0, 11]))
    last = np.concatenate([ids[str(i)] for i in range(26)], axis=1)
    np.testing.assert_array_equal(batch["sparse"], last[[13, 24]])
    np.testing.assert_array_equal(label, DAYS[2]["y"][[13, 24]])
    log.schema.validate(log.split("train").arrays()[0])


@pytest.mark.slow
def test_a_model_trains_from_mlperf_files(tmp_path):
    log = mlperf(tmp_path)
    model = kd.models.DLRM(log.schema, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1])
    model.compile("adagrad", metrics=["auc"])
    history = model.fit(
        log.split("train").dataset(16, shuffle=True),
        validation_data=log.split("valid").dataset(16),
        epochs=2,
        verbose=0,
    ).history
    assert len(history["val_loss"]) == 2 and np.isfinite(history["loss"]).all()
    assert log.preprocessor.schema.table_sizes == log.schema.table_sizes and log.best is None


def test_the_reference_files_of_a_real_log(tmp_path, shared):
    golden = shared / "golden" / "criteo_classic_first1000.npz"
    raw = shared / "data" / "criteo" / "kaggle_first1000.txt"
    if not golden.exists() or not raw.exists():
        pytest.skip(f"needs {golden} and {raw}")
    log = kd.data.reference.open(golden)
    ours = kd.data.criteo.preprocess(raw, tmp_path / "ours")
    assert log.splits == ours.splits
    check_same("test", log.schema, ours.schema, scores=True)  # ours knows its vocabularies, too
    for name in log.splits:
        (batch, label), (other, other_label) = log.split(name).arrays(), ours.split(name).arrays()
        np.testing.assert_array_equal(label, other_label)
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])

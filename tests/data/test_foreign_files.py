"""MLPerf's, the reference's and TorchRec's files: read as they are, cut as their origins cut them, converted, checked."""

import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.schema.same_schema import check_same

pytestmark = pytest.mark.neutral

SIZES = [50 + 7 * i for i in range(26)]
ROWS = [30, 17, 25]  # of three days


def day(rows, seed, sizes=SIZES):
    random = np.random.default_rng(seed)
    return {
        "y": random.integers(0, 2, rows).astype(np.int32),
        "X_int": random.integers(0, 1000, (rows, 13)).astype(np.int32),
        "X_cat": np.stack([random.integers(0, n, rows) for n in sizes], axis=1).astype(np.int32),
    }


DAYS = [day(rows, seed) for seed, rows in enumerate(ROWS)]


def joined(days, start=0, stop=None):
    return {name: np.concatenate([d[name] for d in days])[start:stop] for name in ("y", "X_int", "X_cat")}


HALF = 13
CLASSIC = {"train": joined(DAYS[:2]), "test": joined(DAYS[2:], 0, HALF), "valid": joined(DAYS[2:], HALF)}
TORCHREC = {"train": joined(DAYS[:2]), "valid": joined(DAYS[2:], 0, HALF), "test": joined(DAYS[2:], HALF)}


def record(part):
    return np.concatenate([part["y"][:, None], part["X_int"], part["X_cat"]], axis=1).astype("<i4")


def mlperf(folder):
    for name, part in CLASSIC.items():
        (folder / f"{'val' if name == 'valid' else name}_data.bin").write_bytes(record(part).tobytes())
    np.savez_compressed(folder / "day_fea_count.npz", counts=np.array(SIZES, np.int32))
    return kd.data.mlperf.open(folder)


def by_day(folder, save=np.savez_compressed, order="C", dtype=np.int32):
    for number, d in enumerate(DAYS):
        cat = np.asarray(d["X_cat"], dtype, order=order)
        save(folder / f"day_{number}_reordered.npz", X_cat=cat, X_int=d["X_int"], y=d["y"])
    np.savez_compressed(folder / "day_fea_count.npz", counts=np.array(SIZES, np.int32))
    return kd.data.reference.open(folder)


def single(folder):
    whole = joined(DAYS)
    # As the reference leaves it: ids column-major and as float64.
    whole["X_cat"] = np.asfortranarray(whole["X_cat"], np.float64)
    path = folder / "kaggleAdDisplayChallenge_processed.npz"
    np.savez_compressed(path, **whole, counts=np.array(SIZES, np.int32))
    np.savez_compressed(folder / "train_day_count.npz", total_per_file=np.array(ROWS))
    return kd.data.reference.open(path)


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


def npy(folder, sizes=SIZES):
    for number, d in enumerate(DAYS):
        np.save(folder / f"day_{number}_dense.npy", d["X_int"].astype(np.float32) / 7)
        np.save(folder / f"day_{number}_sparse.npy", d["X_cat"] * 3)
        np.save(folder / f"day_{number}_labels.npy", d["y"][:, None])
    return kd.data.torchrec.open(folder, sizes)


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


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 2, "row 5, column label: value 2 must be 0 or 1"),
        (1, -3, "row 5, column I1: value -3 must be a count of at least 0"),
        (14, 50, "row 5, column C1: value 50 must be an id in 0 … 49: there are 50 rows"),
        (39, -1, "row 5, column C26: value -1 must be an id of at least 0"),
    ],
)
def test_a_bad_value_is_named_with_file_row_and_column(tmp_path, column, value, message):
    mlperf(tmp_path)
    rows = record(CLASSIC["train"])
    rows[5, column] = value
    (tmp_path / "train_data.bin").write_bytes(rows.tobytes())
    split = kd.data.mlperf.open(tmp_path).split("train")
    for read in (
        lambda: split.arrays(),
        lambda: split.take(np.array([9, 5, 2])),
        lambda: list(split.batches(4)),
        lambda: list(split.dataset(8, shuffle=True)),
        lambda: kd.data.mlperf.open(tmp_path).write(tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match=f"train_data.bin, {message}"):
            read()
    assert not (tmp_path / "out").exists()
    if column == 0:
        with pytest.raises(ValueError, match=message):
            split.labels  # noqa: B018
    assert len(split.take(slice(6, 9))[1]) == 3


def test_a_bad_value_in_a_later_day_is_named_by_its_row_there(tmp_path):
    by_day(tmp_path)
    broken = {**DAYS[1], "X_cat": DAYS[1]["X_cat"] + np.where(np.arange(17) == 3, 1000, 0)[:, None]}
    np.savez_compressed(tmp_path / "day_1_reordered.npz", **broken)
    log = kd.data.reference.open(tmp_path)
    with pytest.raises(ValueError, match="day_1_reordered.npz, row 3, column C1"):
        log.split("train").arrays()
    with pytest.raises(ValueError, match="day_1_reordered.npz, row 3, column C1"):
        list(log.split("train").batches(7))


def test_negative_ids_and_broken_numbers_are_named_in_any_case(tmp_path):
    """A modulo would make an id of -1; and the file's row is told, not that of a block."""
    by_day(tmp_path)
    at = np.arange(17) == 9
    for array, value, message in (
        ("X_cat", -1, "column C1: value -1 must be an id of at least 0"),
        ("X_cat", 0.5, "column C1: value 0.5 must be an integer below 2"),
        ("X_int", float("nan"), "column I1: value nan must be an integer below 2"),
        ("X_int", 2.0**40, "column I1: value 1099511627776.0 must be an integer below 2"),
    ):
        given = DAYS[1][array].astype(float) if isinstance(value, float) else DAYS[1][array]
        broken = {**DAYS[1], array: np.where(at[:, None], value, given)}
        np.savez_compressed(tmp_path / "day_1_reordered.npz", **broken)
        for limit in (None, 60, 2**40):
            log = kd.data.reference.open(tmp_path, max_ind_range=limit)
            with pytest.raises(ValueError, match=f"day_1_reordered.npz, row 9, {message}"):
                list(log.split("train").batches(7))
            with pytest.raises(ValueError, match=f"day_1_reordered.npz,.*row 9.* {message.partition(': ')[2][:9]}"):
                log.split("train").take(np.array([3, 39, 20]))
    mlperf(tmp_path)
    rows = record(CLASSIC["train"])
    rows[5, 14] = -1
    (tmp_path / "train_data.bin").write_bytes(rows.tobytes())
    with pytest.raises(ValueError, match="train_data.bin, row 5, column C1: value -1 must be an id of at least 0"):
        kd.data.mlperf.open(tmp_path, max_ind_range=60).split("train").arrays()


def test_damaged_and_missing_files_are_clear_errors(tmp_path):
    log = mlperf(tmp_path)
    path = tmp_path / "train_data.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="not whole rows of 160"):
        kd.data.mlperf.open(tmp_path)
    with pytest.raises(ValueError, match="train_data.bin is damaged or cut short"):
        log.split("train").take(slice(0, 4))
    (tmp_path / "day_fea_count.npz").unlink()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*_fea_count.npz.*counts="):
        kd.data.mlperf.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file; counts="):
        kd.data.mlperf.open(tmp_path, counts=tmp_path / "absent.npz")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        kd.data.mlperf.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no train_data.bin"):
        kd.data.mlperf.open(tmp_path / "empty")
    with pytest.raises(ValueError, match="max_ind_range=0"):
        kd.data.mlperf.open(tmp_path, max_ind_range=0)
    (tmp_path / "other_test.bin").touch()
    with pytest.raises(ValueError, match="2 files for the test split"):
        kd.data.mlperf.open(tmp_path)


def test_damaged_and_missing_reference_files_are_clear_errors(tmp_path):
    log = by_day(tmp_path)
    first = tmp_path / "day_0_reordered.npz"
    content = first.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 4 : len(content) // 4 + 40] = bytes(40)
    first.write_bytes(damaged)
    with pytest.raises(ValueError, match="day_0_reordered.npz, array '.*' is damaged"):
        log.split("train").arrays()
    first.write_bytes(content[:200])
    with pytest.raises(ValueError, match="is not an .npz file, or cut short"):
        kd.data.reference.open(tmp_path)
    np.savez_compressed(first, X_cat=DAYS[0]["X_cat"], y=DAYS[0]["y"])
    with pytest.raises(ValueError, match="has no array 'X_int'; it has"):
        kd.data.reference.open(tmp_path)
    np.savez_compressed(first, **{**DAYS[0], "y": DAYS[0]["y"][:-1]})
    with pytest.raises(ValueError, match=r"rows; they must agree"):
        kd.data.reference.open(tmp_path)
    np.savez_compressed(first, **{**DAYS[0], "X_cat": DAYS[0]["X_cat"][:, 1:]})
    with pytest.raises(ValueError, match=r"must hold numbers of shape \(N, 26\)"):
        kd.data.reference.open(tmp_path)
    np.savez_compressed(first, **{**DAYS[0], "X_cat": DAYS[0]["X_cat"] + 0.5})
    with pytest.raises(ValueError, match="must be an integer below"):
        kd.data.reference.open(tmp_path).split("train").arrays()
    first.unlink()
    with pytest.raises(FileNotFoundError, match=r"days up to 2, but not \[0\]"):
        kd.data.reference.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        kd.data.reference.open(tmp_path / "absent.npz")


def test_a_single_file_is_cut_by_its_day_count_or_evenly(tmp_path):
    single(tmp_path)
    path = tmp_path / "kaggleAdDisplayChallenge_processed.npz"
    np.savez(tmp_path / "train_day_count.npz", total_per_file=np.array([30, 30]))
    with pytest.raises(ValueError, match="counts 60 rows in 2 days, but .* has 72"):
        kd.data.reference.open(path)
    (tmp_path / "train_day_count.npz").unlink()
    log = kd.data.reference.open(path)
    # 72 = 7 · 10 + 2: the first two days have 11 rows, the last 10.
    assert [len(log.split(s)) for s in ("train", "test", "valid")] == [62, 5, 5]
    with pytest.raises(ValueError, match="days=1"):
        kd.data.reference.open(path, days=1)


def test_torchrec_errors(tmp_path):
    npy(tmp_path)
    with pytest.raises(ValueError, match="26 integers of at least 1"):
        kd.data.torchrec.open(tmp_path, [10] * 25)
    np.save(tmp_path / "day_1_labels.npy", DAYS[1]["y"])
    with pytest.raises(ValueError, match=r"must hold numbers of shape \(N, 1\)"):
        kd.data.torchrec.open(tmp_path, SIZES)
    (tmp_path / "day_1_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="day_1_labels.npy: no such file"):
        kd.data.torchrec.open(tmp_path, SIZES)
    for path in tmp_path.glob("day_1_*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"but not \[1\]"):
        kd.data.torchrec.open(tmp_path, SIZES)

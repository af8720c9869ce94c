"""Foreign files with bad values, damaged or missing: named by file, row and column."""

import numpy as np
import pytest
from helpers.foreign_logs import CLASSIC, DAYS, SIZES, by_day, mlperf, npy, record, single

import keras_dlrm as kd

pytestmark = pytest.mark.neutral


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
        array_of_a_day = DAYS[1][array].astype(float) if isinstance(value, float) else DAYS[1][array]
        broken = {**DAYS[1], array: np.where(at[:, None], value, array_of_a_day)}
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

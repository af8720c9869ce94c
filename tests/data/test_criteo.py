"""The classic dialect of Criteo preprocessing, against the reference's output and a plain Python rendering of it."""

import gzip

import numpy as np
import pytest

from keras_dlrm.data import criteo
from keras_dlrm.data.criteo import reader as criteo_reader
from keras_dlrm.schema.criteo import CATEGORICAL, COLUMNS, DENSE

pytestmark = pytest.mark.neutral


def make_lines(rows, seed=0):
    """Made-up lines in Criteo's format, with missing fields and negative counts."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        counts = ["" if random.random() < 0.2 else str(random.integers(-2, 50)) for _ in range(13)]
        hashes = ["" if random.random() < 0.2 else f"{random.integers(0, 9) * 477218589:08x}" for _ in range(26)]
        lines.append("\t".join([str(random.integers(0, 2)), *counts, *hashes]))
    return lines


def save(path, lines, end="\n"):
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def plain(lines, max_ind_range=None):
    """Values by the classic dialect, one at a time."""
    fields = [[f or "0" for f in line.split("\t")] for line in lines]
    ids = np.zeros((len(lines), 26), int)
    counts = []
    for j in range(26):
        known = {}
        for i, row in enumerate(fields):
            key = int(row[14 + j], 16)
            ids[i, j] = known.setdefault(key % max_ind_range if max_ind_range else key, len(known))
        counts.append(len(known))
    numbers = np.array([[int(x) for x in row[1:14]] for row in fields]).reshape(-1, 13)
    return np.array([int(r[0]) for r in fields]), np.maximum(numbers, 0), ids, counts


def check(log, lines, orders, max_ind_range=None):
    y, x, ids, counts = plain(lines, max_ind_range)
    assert list(log.schema.table_sizes.values()) == counts
    for split, order in orders.items():
        batch, label = log.split(split).arrays()
        np.testing.assert_array_equal(batch["sparse"], ids[order])
        np.testing.assert_array_equal(batch["dense"], np.log(x[order].astype(np.float32) + 1))
        np.testing.assert_array_equal(label, y[order])


def test_first_thousand_rows_of_kaggle_equal_the_reference(shared):
    golden = np.load(shared / "golden" / "criteo_classic_first1000.npz")
    found = criteo.encode(shared / "data" / "criteo" / "kaggle_first1000.txt")
    for name in ("X_int", "X_cat", "y", "counts"):
        np.testing.assert_array_equal(found[name], golden[name])


@pytest.mark.parametrize("max_ind_range", [None, 1000])
def test_real_rows_equal_a_plain_rendering(shared, tmp_path, max_ind_range):
    path = shared / "data" / "criteo" / "kaggle_first1000.txt"
    lines = path.read_text().splitlines()
    log = criteo.preprocess(path, tmp_path / "out", max_ind_range=max_ind_range)
    # 1000 = 7 · 142 + 6: six days of 143 lines, one of 142
    orders = {"train": range(858), "test": range(858, 929), "valid": range(929, 1000)}
    check(log, lines, {k: list(v) for k, v in orders.items()}, max_ind_range)


@pytest.mark.parametrize("max_ind_range", [None, 5])
@pytest.mark.parametrize("block_bytes", [200, 2**20])
def test_ids_follow_first_appearance_whatever_the_block_size(tmp_path, max_ind_range, block_bytes, monkeypatch):
    monkeypatch.setattr(criteo_reader, "BLOCK_BYTES", block_bytes)
    lines = make_lines(60)
    found = criteo.encode(save(tmp_path / "raw.txt", lines), max_ind_range)
    y, x, ids, counts = plain(lines, max_ind_range)
    np.testing.assert_array_equal(found["X_cat"], ids)
    np.testing.assert_array_equal(found["X_int"], x)
    np.testing.assert_array_equal(found["y"], y)
    assert found["counts"].tolist() == counts


def test_one_input_is_cut_into_days_and_the_last_day_into_test_and_valid(tmp_path):
    lines = make_lines(32)  # days of 11, 11, 10
    log = criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out", days=3)
    check(log, lines, {"train": np.arange(22), "test": np.arange(22, 27), "valid": np.arange(27, 32)})


def test_longer_half_of_an_odd_last_day_is_the_test_split(tmp_path):
    lines = make_lines(10)
    log = criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out", days=2)
    assert [len(log.split(s)) for s in ("train", "valid", "test")] == [5, 2, 3]


def test_several_inputs_are_a_day_each(tmp_path):
    lines = make_lines(25)
    paths = [tmp_path / "day_0", tmp_path / "day_1", tmp_path / "day_2.gz"]
    save(paths[0], lines[:10])
    save(paths[1], lines[10:14], end="")
    paths[2].write_bytes(gzip.compress(("\r\n".join(lines[14:]) + "\r\n").encode()))
    log = criteo.preprocess(paths, tmp_path / "out")
    check(log, lines, {"train": np.arange(14), "test": np.arange(14, 20), "valid": np.arange(20, 25)})


def test_days_in_the_order_of_letters_are_refused(tmp_path):
    """A shell's day_* gives this order: the last day would be another one."""
    lines = make_lines(3)
    days = [save(tmp_path / f"day_{day}", [line]) for day, line in zip((0, 2, 10), lines, strict=True)]
    with pytest.raises(ValueError, match=r"day_10 comes before .*day_2.*day_\{0..23\}"):
        criteo.preprocess(sorted(days), tmp_path / "out")
    check(criteo.preprocess(days, tmp_path / "out"), lines, {"train": [0, 1], "test": [2], "valid": []})


def test_total_shuffle_is_one_permutation_of_the_training_rows(tmp_path):
    lines = make_lines(40)
    log = criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out", days=2, shuffle="total", seed=9)
    order = np.random.RandomState(9).permutation(np.arange(20))
    check(log, lines, {"train": order, "test": np.arange(20, 30), "valid": np.arange(30, 40)})


def test_day_shuffle_permutes_each_training_day(tmp_path):
    lines = make_lines(30)
    log = criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out", days=3, shuffle="day", seed=9)
    random = np.random.RandomState(9)
    order = np.concatenate([random.permutation(np.arange(10)), random.permutation(np.arange(10, 20))])
    check(log, lines, {"train": order, "test": np.arange(20, 25), "valid": np.arange(25, 30)})


def test_subsampling_drops_rows_without_a_click_before_ids_are_given(tmp_path):
    lines = make_lines(60)
    path = save(tmp_path / "raw.txt", lines)
    log = criteo.preprocess(path, tmp_path / "out", days=3, subsample=0.6, seed=4, shuffle="total")
    random = np.random.RandomState(4)
    kept, sizes = [], []
    for day in range(3):
        u = random.uniform(low=0.0, high=1.0, size=20)
        day_lines = lines[20 * day : 20 * day + 20]
        rows = [line for line, x in zip(day_lines, u, strict=True) if not (line[0] == "0" and x < 0.6)]
        kept += rows
        sizes.append(len(rows))
    train = random.permutation(np.arange(sizes[0] + sizes[1]))
    test, valid = np.array_split(np.arange(sizes[0] + sizes[1], len(kept)), 2)
    assert len(kept) < 60
    check(log, kept, {"train": train, "test": test, "valid": valid})


@pytest.mark.parametrize("max_ind_range", [None, 5])
def test_preprocessor_maps_raw_columns_as_the_files_were(tmp_path, max_ind_range):
    lines = make_lines(40)
    log = criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out", max_ind_range=max_ind_range, days=2)
    fields = [line.split("\t") for line in lines]
    columns = {name: [row[i] or None for row in fields] for i, name in enumerate(COLUMNS)}
    batch = log.preprocessor.transform(columns)
    _, x, ids, _ = plain(lines, max_ind_range)
    np.testing.assert_array_equal(batch["sparse"], ids)
    np.testing.assert_array_equal(batch["dense"], np.log(x.astype(np.float32) + 1))


def test_preprocessor_maps_unseen_hashes_to_row_0(tmp_path):
    log = criteo.preprocess(save(tmp_path / "raw.txt", make_lines(40)), tmp_path / "out", days=2)
    columns = {**{n: [1] for n in DENSE}, **{n: ["0abcdef1"] for n in CATEGORICAL}}
    assert log.preprocessor.transform(columns)["sparse"].tolist() == [[0] * 26]
    with pytest.raises(ValueError, match="row 0, column 'C4': value 'hello' must be hexadecimal"):
        log.preprocessor.transform({**columns, "C4": ["hello"]})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, "2", "line 8, column label: value '2' must be 0 or 1"),
        (0, "", "line 8, column label: value '' must be 0 or 1"),
        (3, "1.5", "line 8, column I3: value '1.5' must be a 32-bit integer"),
        (3, "99999999999", "column I3: value '99999999999'"),
        (14, "xyz", "line 8, column C1: value 'xyz' must be hexadecimal"),
        (39, "+1", r"line 8, column C26: value '\+1'"),
    ],
)
def test_bad_value_names_file_line_and_column(tmp_path, field, value, message):
    lines = make_lines(20)
    fields = lines[7].split("\t")
    fields[field] = value
    lines[7] = "\t".join(fields)
    with pytest.raises(ValueError, match=f"raw.txt, .*{message}"):
        criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["raw.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:20], "line 8: .* columns .*missing, the line is cut short"),
        (lambda line: line.rsplit("\t", 1)[0], "line 8: 39 columns.*column C26 is missing"),
        (lambda line: line + "\t1", "line 8: 41 columns.*too long"),
        (lambda line: "", "line 8: 1 columns"),
    ],
)
def test_line_with_the_wrong_number_of_columns_is_named(tmp_path, change, message):
    lines = make_lines(20)
    lines[7] = change(lines[7])
    with pytest.raises(ValueError, match=message):
        criteo.preprocess(save(tmp_path / "raw.txt", lines), tmp_path / "out")


def test_bad_arguments(tmp_path):
    path = save(tmp_path / "raw.txt", make_lines(4))
    for arguments, message in [
        ({"dialect": "torch"}, "dialect='torch' is unknown; this release has .*classic"),
        ({"shuffle": "yes"}, "shuffle='yes'"),
        ({"subsample": 1.5}, "subsample=1.5"),
        ({"days": 1}, "days=1"),
        ({"max_ind_range": 0}, "max_ind_range=0"),
        ({"max_ind_range": 2.5}, "max_ind_range=2.5"),
        ({"max_ind_range": True}, "max_ind_range=True"),
        ({"seed": -1}, "criteo: seed=-1"),
        ({"seed": 2**32}, "criteo: seed=4294967296"),
        ({"subsample": "half"}, "criteo: subsample='half'"),
        ({"subsample": float("nan")}, "criteo: subsample=nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            criteo.preprocess(path, tmp_path / "out", **arguments)
    with pytest.raises(FileNotFoundError, match="no such file"):
        criteo.preprocess(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ValueError, match="no inputs"):
        criteo.preprocess([], tmp_path / "out")
    with pytest.raises(ValueError, match="no rows are left"):
        criteo.preprocess(save(tmp_path / "empty.txt", [], end=""), tmp_path / "out")


def test_numbers_of_numpy_and_limits_beyond_all_values_are_taken(tmp_path):
    lines = make_lines(14)
    path = save(tmp_path / "raw.txt", lines)
    numbers = {"max_ind_range": np.int64(7), "seed": np.int64(5), "subsample": np.float32(0.0)}
    check(criteo.preprocess(path, tmp_path / "a", **numbers), lines, {"train": range(12)}, 7)
    check(criteo.preprocess(path, tmp_path / "b", max_ind_range=2**64), lines, {"train": range(12)})


def test_progress_is_reported_and_the_output_is_not_overwritten(tmp_path):
    path = save(tmp_path / "raw.txt", make_lines(14))
    seen = []
    criteo.preprocess(path, tmp_path / "out", progress=lambda *call: seen.append(call))
    assert (14, 14, "read") in seen and seen[-1] == (14, 14, "write")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        criteo.preprocess(path, tmp_path / "out")
    criteo.preprocess(path, tmp_path / "out", overwrite=True)

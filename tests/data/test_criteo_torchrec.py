"""The TorchRec dialect of Criteo preprocessing, against a plain Python rendering of its rules."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm.data import criteo
from keras_dlrm.schema.criteo import COLUMNS

pytestmark = pytest.mark.neutral


def make_lines(rows, seed=0, values=9):
    """Made-up lines, with missing fields and negative counts."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        counts = ["" if random.random() < 0.2 else str(random.integers(-3, 50)) for _ in range(13)]
        keys = ["" if random.random() < 0.2 else f"{random.integers(0, values) * 477218589:08x}" for _ in range(26)]
        lines.append("\t".join([str(random.integers(0, 2)), *counts, *keys]))
    return lines


def save(folder, files):
    paths = []
    for k, lines in enumerate(files):
        text = "".join(line + "\n" for line in lines).encode()
        path = folder / (f"day_{k}.gz" if k % 2 else f"day_{k}")
        path.write_bytes(gzip.compress(text) if k % 2 else text)
        paths.append(path)
    return paths


def plain(files, min_count=1, table_sizes=None):
    """Label, dense values and ids of all rows, as TorchRec's scripts make them of files of lines."""
    label, dense, keys = [], [], []
    for lines in files:
        fields = [[f or "0" for f in line.split("\t")] for line in lines]
        label += [int(row[0]) for row in fields]
        counts = np.array([[int(x) for x in row[1:14]] for row in fields], np.int32)
        counts -= counts.min() - 2
        dense.append(np.log(counts, dtype=np.float32))
        keys += [[int(x, 16) for x in row[14:]] for row in fields]
    ids = np.zeros((len(keys), 26), np.int64)
    sizes = []
    for j in range(26):
        column = [row[j] for row in keys]
        known = {}
        following = 2
        for i, key in enumerate(column):
            if key not in known:
                known[key] = 1 if column.count(key) < min_count else following
                following += known[key] != 1
            ids[i, j] = known[key]
        sizes.append(table_sizes[j] if table_sizes else following)
    return np.array(label), np.concatenate(dense), ids % sizes, sizes


def check(log, found, orders):
    label, dense, ids, sizes = found
    assert list(log.schema.table_sizes.values()) == sizes
    for split, order in orders.items():
        batch, y = log.split(split).arrays()
        np.testing.assert_array_equal(batch["sparse"], ids[order])
        np.testing.assert_array_equal(np.asarray(batch["dense"]).view(np.int32), dense[order].view(np.int32))
        np.testing.assert_array_equal(y, label[order])


@pytest.mark.parametrize("min_count", [1, 2, 3])
@pytest.mark.parametrize("table_sizes", [None, 4, [*range(1, 27)]])
def test_files_equal_a_plain_rendering(tmp_path, min_count, table_sizes):
    lines = make_lines(32, values=12)
    files = [lines[:11], lines[11:23], lines[23:]]
    log = criteo.preprocess(
        save(tmp_path, files), tmp_path / "out", "torchrec", min_count=min_count, table_sizes=table_sizes
    )
    sizes = [table_sizes] * 26 if isinstance(table_sizes, int) else table_sizes
    # The first half of the last day, the longer one, is the validation split.
    orders = {"train": np.arange(23), "valid": np.arange(23, 28), "test": np.arange(28, 32)}
    check(log, plain(files, min_count, sizes), orders)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_any_days_equal_a_plain_rendering(sizes, min_count, seed):
    files = [make_lines(size, seed + k) for k, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = criteo.preprocess(
            save(folder, files), folder / "out", "torchrec", min_count=min_count, shuffle="total", seed=seed
        )
        # What NumPy's shuffle does to the rows of a matrix, as the script has it.
        order = np.arange(sum(sizes[:-1]))[:, None].repeat(3, 1)
        random = np.random.RandomState(seed)
        random.shuffle(order)
        start, total = sum(sizes[:-1]), sum(sizes)
        middle = start + (sizes[-1] + 1) // 2
        orders = {"train": order[:, 0], "valid": np.arange(start, middle), "test": np.arange(middle, total)}
        check(log, plain(files, min_count), orders)


def test_one_file_is_cut_into_days_and_has_one_minimum(tmp_path):
    lines = make_lines(30)
    log = criteo.preprocess(save(tmp_path, [lines])[0], tmp_path / "out", "torchrec", days=3)
    orders = {"train": np.arange(20), "valid": np.arange(20, 25), "test": np.arange(25, 30)}
    check(log, plain([lines]), orders)


def test_preprocessor_maps_raw_columns_as_the_training_file_was(tmp_path):
    lines = make_lines(30)
    log = criteo.preprocess(save(tmp_path, [lines])[0], tmp_path / "out", "torchrec", days=3, min_count=2)
    columns = {name: [line.split("\t")[i] or None for line in lines] for i, name in enumerate(COLUMNS)}
    batch = log.preprocessor.transform(columns)
    _, dense, ids, _ = plain([lines], 2)
    np.testing.assert_array_equal(batch["sparse"], ids)
    np.testing.assert_array_equal(batch["dense"].view(np.int32), dense.view(np.int32))
    unseen = log.preprocessor.transform({**columns, "C4": ["0abcdef1"] * 30})
    assert set(unseen["sparse"][:, 3].tolist()) == {1}


def test_ids_beyond_float32_and_counts_beyond_int32_are_exact(tmp_path):
    lines = make_lines(6)
    fields = lines[0].split("\t")
    fields[1], fields[2], fields[14], fields[15] = "-2147483648", "2147483647", "ffffffffffffffff", "ffffffff"
    lines[0] = "\t".join(fields)
    log = criteo.preprocess(save(tmp_path, [lines])[0], tmp_path / "out", "torchrec", days=2)
    batch, _ = log.split("train").arrays()
    assert batch["dense"][0, 1] == np.log(np.float32(2**32 + 1))
    assert np.isfinite(batch["dense"]).all()


def test_arguments_of_the_other_dialect_are_refused(tmp_path):
    path = save(tmp_path, [make_lines(4)])[0]
    for arguments, message in [
        ({"dialect": "torchrec", "max_ind_range": 5}, "max_ind_range belongs to dialect='classic'"),
        ({"dialect": "torchrec", "subsample": 0.5}, "subsample belongs to dialect='classic'"),
        ({"min_count": 2}, "min_count belongs to dialect='torchrec'"),
        ({"table_sizes": 2}, "table_sizes belongs to dialect='torchrec'"),
        ({"dialect": "torchrec", "table_sizes": [1, 2]}, "table_sizes"),
        ({"dialect": "torchrec", "min_count": 0}, "min_count=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            criteo.preprocess(path, tmp_path / "out", **arguments)

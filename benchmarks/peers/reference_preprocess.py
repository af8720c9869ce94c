"""The reference DLRM's preprocessing of a Criteo log, as an algorithm: one line, one value at a time, in Python.

Line by line: split, int(), int(x, 16), a row of NumPy arrays per day, and a dictionary per column; the days as .npz; every
value through its dictionary, and the days as .npz again; all days concatenated into one .npz; then the logarithm and
the split. Written anew from the description of facebookresearch/dlrm's data_utils.py, whose progress line per row is
left out. NumPy only. Prints rows, seconds and the peak of
resident memory in kB.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

DAYS = 7


def preprocess(log: Path, folder: Path) -> int:
    """Do it all, with files in `folder`. Returns the number of rows."""
    with open(log) as file:
        total = sum(1 for _ in file)
    size, longer = divmod(total, DAYS)
    known: list[dict[int, int]] = [{} for _ in range(26)]
    with open(log) as file:
        for day in range(DAYS):
            parse(file, size + (day < longer), known, folder / f"day_{day}.npz")
    for column in known:
        for number, key in enumerate(column):
            column[key] = number
    for day in range(DAYS):
        convert(folder / f"day_{day}.npz", known, folder / f"day_{day}_processed.npz")
    concatenate(folder)
    return total


def parse(file, lines: int, known: list[dict[int, int]], path: Path) -> None:
    label, counts, keys = np.zeros(lines, "i4"), np.zeros((lines, 13), "i4"), np.zeros((lines, 26), "i4")
    for i, line in enumerate(islice(file, lines)):
        fields = line.split("\t")
        for j, field in enumerate(fields):
            if field in ("", "\n"):
                fields[j] = "0"
        label[i] = int(fields[0])
        counts[i] = np.array(fields[1:14], dtype=np.int32)
        # 32 bits without a sign do not fit into the reference's array on NumPy 2.
        keys[i] = np.array([int(field, 16) for field in fields[14:]], np.int64).astype(np.int32)
        for j in range(26):
            known[j][keys[i][j]] = 1
    np.savez_compressed(path, label=label, counts=counts, keys=keys.T)


def convert(path: Path, known: list[dict[int, int]], to: Path) -> None:
    with np.load(path) as data:
        keys, counts, label = data["keys"], data["counts"], data["label"]
    ids = np.zeros(keys.shape)
    for j, column in enumerate(known):
        for i, key in enumerate(keys[j]):
            ids[j, i] = column[key]
    counts[counts < 0] = 0
    np.savez_compressed(to, ids=ids.T, counts=counts, label=label)


def concatenate(folder: Path) -> None:
    parts = [np.load(folder / f"day_{day}_processed.npz") for day in range(DAYS)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ("ids", "counts", "label")}
    np.savez_compressed(folder / "whole.npz", **whole)
    with np.load(folder / "whole.npz") as data:
        last = len(parts[-1]["label"])
        rows = np.arange(len(data["label"]))
        train, (test, valid) = rows[:-last], np.array_split(rows[-last:], 2)
        ids, counts, label = data["ids"], data["counts"], data["label"]
    for chosen in (train, valid, test):
        ids[chosen].astype(int), np.log(counts[chosen].astype(np.float32) + 1), label[chosen].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.log.parent) as folder:
        start = time.perf_counter()
        rows = preprocess(arguments.log, Path(folder))
        seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s*(\d+)", status)[0])
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    main()

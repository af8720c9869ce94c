"""A made-up log in Criteo's format, with as many distinct values as the Kaggle log has in so many rows."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from keras_dlrm.schema.criteo import CATEGORICAL, COLUMNS, CRITEO_KAGGLE_ROWS, DENSE
from keras_dlrm.support.terminal import bar

KAGGLE_ROWS = 45_840_617
EXPONENT = 1.1
# Shares of empty fields, about as in the Kaggle log.
MISSING_COUNTS = (0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.76, 0.22)
MISSING_KEYS = {3: 0.03, 4: 0.03, 6: 0.12, 12: 0.03, 16: 0.03, 19: 0.44, 20: 0.44, 21: 0.03, 22: 0.76, 24: 0.03,
                25: 0.44, 26: 0.44}  # fmt: skip
_CHUNK = 100_000


def write(path: Path, rows: int, seed: int = 0) -> dict[str, int]:
    """Write a log; the same rows and seed give the same file.

    Args:
        path: File to write.
        rows: Lines.
        seed: Seed of all values.

    Returns:
        The expected number of distinct values of each categorical column.
    """
    random = np.random.default_rng(seed)
    sizes = {name: size if size < 1000 else max(1000, size * rows // KAGGLE_ROWS)
             for name, size in zip(CATEGORICAL, CRITEO_KAGGLE_ROWS, strict=True)}  # fmt: skip
    ranges = [_range(size, rows, 1.0 - MISSING_KEYS.get(j + 1, 0.0)) for j, size in enumerate(sizes.values())]
    pairs = np.array([f"{i:04x}" for i in range(2**16)], "S4")
    with bar(Console(stderr=True)) as shown, open(path, "wb") as file:
        task = shown.add_task("log", total=rows, note="")
        for start in range(0, rows, _CHUNK):
            n = min(_CHUNK, rows - start)
            columns = {COLUMNS[0]: pl.Series((random.random(n) < 0.256).astype(np.int8))}
            for name, missing in zip(DENSE, MISSING_COUNTS, strict=True):
                # Heavy tails, as the log's, and a few negative values in the second.
                values = np.floor(random.lognormal(2.0, 1.8, n)).astype(np.int32) - 3 * (name == "I2")
                text = pl.Series(values).cast(pl.String)
                columns[name] = text.set(pl.Series(random.random(n) < missing), "") if missing else text
            for j, name in enumerate(CATEGORICAL):
                ranks = _zipf(random.random(n), ranges[j]).astype(np.uint64)
                keys = _scatter(ranks * np.uint64(32) + np.uint64(j))
                halves = np.stack([pairs[keys >> 16], pairs[keys & 0xFFFF]], axis=1)
                text = pl.Series(halves.view("S8")[:, 0].astype("U8"))
                missing = MISSING_KEYS.get(j + 1, 0.0)
                columns[name] = text.set(pl.Series(random.random(n) < missing), "") if missing else text
            pl.DataFrame(columns).write_csv(file, include_header=False, separator="\t", quote_style="never")
            shown.update(task, advance=n)
    return sizes


def _zipf(u: np.ndarray, most: float) -> np.ndarray:
    """Ranks from 1 to `most`, by the inverse of the distribution function of x^-EXPONENT."""
    power = 1.0 - EXPONENT
    return np.floor((1.0 + u * (most**power - 1.0)) ** (1.0 / power))


def _scatter(numbers: np.ndarray) -> np.ndarray:
    """Numbers to 32 bits without an order: distinct ones below 2^32 stay distinct (the last steps of MurmurHash3)."""
    mixed = numbers.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return mixed ^ (mixed >> np.uint32(16))


def _range(size: int, rows: int, share: float) -> float:
    """The largest rank for which `rows * share` draws have about `size` distinct values."""
    low, high = float(size), 1e13
    if size < 1000:
        return low + 1.0
    for _ in range(60):
        most = (low * high) ** 0.5
        edges = np.geomspace(1.0, most, 2001)
        weight = np.diff((edges ** (1.0 - EXPONENT) - 1.0) / (most ** (1.0 - EXPONENT) - 1.0))
        count = np.diff(edges)
        distinct = (count * -np.expm1(-rows * share * weight / count)).sum()
        low, high = (most, high) if distinct < size else (low, most)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sizes = write(arguments.path, arguments.rows, arguments.seed)
    size = arguments.path.stat().st_size
    print(f"{arguments.rows:,} rows, {size / 1e9:.2f} GB, about {sum(sizes.values()):,} distinct values")


if __name__ == "__main__":
    main()

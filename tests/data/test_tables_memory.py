"""Memory of preprocessing tables: it follows the distinct values, not the rows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.neutral

# The peak in MB, after each file. Blocks are small, so that it does not depend on how many are under way at once.
PROGRAM = """
import resource, sys
from keras_dlrm.data.tables import frames as table_frames, text as table_text, preprocessing as tables
from keras_dlrm.schema.schema import Categorical, Schema
table_text.BLOCK_BYTES, table_frames.SLICE_ROWS = 2**20, 2**14
schema = Schema(dense=["a", "b"], categorical=[Categorical(f"c{k}") for k in range(8)], label="click")
for path in sys.argv[2:]:
    tables.preprocess(schema, path, output=path + ".out", split={"train": 0.8, "test": 0.2}, split_by=sys.argv[1] or None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize(
    ("ending", "split_by"),
    [pytest.param("csv", "a", marks=pytest.mark.slow), *(pytest.param("parquet", by, marks=pytest.mark.soak) for by in ("", "a"))],
)
def test_four_times_the_rows_take_no_more_memory(tmp_path: Path, ending: str, split_by: str) -> None:
    draw = np.random.default_rng(0)
    rows = 600_000
    frame = pl.DataFrame(
        {"click": draw.integers(0, 2, rows), "a": draw.normal(size=rows), "b": draw.normal(size=rows)}
        | {f"c{k}": draw.integers(0, 10_000, rows) for k in range(8)}
    )
    paths = []
    for times in (1, 4):
        paths.append(tmp_path / f"{times}.{ending}")
        many = pl.concat([frame] * times)
        many.write_csv(paths[-1]) if ending == "csv" else many.write_parquet(paths[-1], row_group_size=100_000)
    size = rows * 3 * (4 + 8 + 32) / 2**20  # What the further rows take where they are kept.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, split_by, *map(str, paths)],
        cwd=Path(__file__).parents[2],
        # What is kept is measured, and not how the C library spreads free memory over threads.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = map(int, done.stdout.split())
    assert size > 70
    assert large - small < size / 2

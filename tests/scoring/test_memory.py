"""Memory of scoring: it does not follow the rows."""

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
import keras_dlrm as kd
from keras_dlrm.data.tables import frames as table_frames, text as table_text
from keras_dlrm.scoring import predict_files
table_text.BLOCK_BYTES, table_frames.SLICE_ROWS = 2**20, 2**14
schema = kd.Schema(dense=["a", "b"], categorical=[kd.Categorical(f"c{k}", 10_000) for k in range(8)])
model = kd.models.DLRM(schema, 4, [8, 4], [8, 1])
for path in sys.argv[1:]:
    predict_files(model, path, output=path + ".scores.parquet", preprocessor=None, id_columns=["key"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("ending", [pytest.param("csv", marks=pytest.mark.soak), pytest.param("parquet", marks=pytest.mark.slow)])
def test_more_rows_take_no_more_memory(tmp_path: Path, ending: str) -> None:
    draw = np.random.default_rng(0)
    rows = 250_000
    frame = pl.DataFrame(
        {"key": draw.integers(10**15, 10**16, rows), "a": draw.normal(size=rows), "b": draw.normal(size=rows)}
        | {f"c{k}": draw.integers(0, 10_000, rows) for k in range(8)}
    )
    paths = []
    for times in (2, 8):
        paths.append(tmp_path / f"{times}.{ending}")
        many = pl.concat([frame] * times)
        many.write_csv(paths[-1]) if ending == "csv" else many.write_parquet(paths[-1], row_group_size=100_000)
    # Even the smaller file is many times what is under way at once. What the further rows take where they are kept: packed,
    # their keys and their predictions.
    size = rows * 6 * (4 * 2 + 4 * 8 + 8 + 4) / 2**20
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        cwd=Path(__file__).parents[2],
        # What is kept is measured, and not how the C library spreads free memory over threads.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert size > 70
    assert large - small < size / 2
    assert pl.scan_parquet(f"{paths[1]}.scores.parquet").select(pl.len()).collect().item() == 8 * rows

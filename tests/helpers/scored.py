"""Rows of a later day, and what a model predicts for rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.table_logs import make_rows

ROWS = 300
# Rows of a later day, with values that the vocabularies do not know.
NEW = [{**row, "unused": 1000 + i} for i, row in enumerate(make_rows(ROWS, seed=1))]


def expected(log: Any, model: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    columns = {name: [row[name] for row in rows] for name in [*log.schema.dense_names, *log.schema.categorical_names]}
    return model.predict(log.preprocessor.transform(columns), verbose=0).ravel()

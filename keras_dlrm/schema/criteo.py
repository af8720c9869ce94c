"""Shapes of Criteo's and MLPerf's logs: columns, table sizes, schemas."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import Categorical, Dense
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer, number

LABEL = "label"
DENSE = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = (LABEL, *DENSE, *CATEGORICAL)
# Rows of the tables of Criteo's Kaggle log, C1 … C26 (facebookresearch/dlrm, README).
CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
# Rows of the tables of Criteo's Terabyte log, ids taken modulo 10 and 40 million.
CRITEO_TERABYTE_10M_ROWS = (
    9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10, 2208, 11156, 122, 4, 970, 14,
    9994222, 7267859, 9946608, 415421, 12420, 101, 36,
)  # fmt: skip
CRITEO_TERABYTE_40M_ROWS = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208, 11938, 155, 4, 976, 14,
    39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip
# Rows and hotness of the tables of MLPerf's DLRM-DCNv2 (mlcommons/training, recommendation_v2).
MLPERF_V2_ROWS = (
    *(40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10),
    *(2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36),
)
MLPERF_V2_HOTNESS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)


def criteo_shape(scale: float = 1.0) -> Schema:
    """A schema with the shape of Criteo's Kaggle log: 13 dense columns and 26 tables, scaled down.

    Args:
        scale: Factor on the tables' rows; each keeps at least 3.

    Example:

    >>> sum(criteo_shape().table_sizes.values()), criteo_shape(1e-4).table_sizes["C3"]
    (33762577, 1013)
    """
    return _shape("criteo_shape", CRITEO_KAGGLE_ROWS, scale)


def mlperf_v2_shape(scale: float = 1.0) -> Schema:
    """A schema with the shape of MLPerf's DLRM-DCNv2 before it is made multi-hot: see `MultiHot`.

    Args:
        scale: Factor on the tables' rows; each keeps at least 3.

    Example:

    >>> len(mlperf_v2_shape().categorical), sum(MLPERF_V2_HOTNESS)
    (26, 214)
    """
    return _shape("mlperf_v2_shape", MLPERF_V2_ROWS, scale)


def _shape(who: str, rows: tuple[int, ...], scale: float) -> Schema:
    if not number(who, "scale", scale) > 0.0:
        raise ValueError(f"{who}: scale={scale} must be positive.")
    return Schema(
        dense=DENSE,
        categorical=[Categorical(name, max(3, round(n * scale))) for name, n in zip(CATEGORICAL, rows, strict=True)],
    )


def criteo_schema(sizes: Sequence[int], hotness: Sequence[int] = (1,) * 26, transform: str = "log1p") -> Schema:
    """The schema of a Criteo log.

    Args:
        sizes: Rows of the 26 tables.
        hotness: Ids that a row has for each.
        transform: Of the dense columns.
    """
    columns = zip(CATEGORICAL, sizes, hotness, strict=True)
    return Schema(
        dense=[Dense(name, transform=transform) for name in DENSE],
        categorical=[Categorical(name, int(size), int(hot)) for name, size, hot in columns],
        label=LABEL,
    )


def check_sizes(sizes: Any, where: str) -> list[int]:
    """26 table sizes as ints, or `ValueError`."""
    array = np.asarray(sizes)
    if array.shape != (26,) or array.dtype.kind not in "iu" or (array < 1).any():
        raise ValueError(f"{where}: table sizes {sizes!r} must be 26 integers of at least 1.")
    return [int(size) for size in array]


def check_max_ind_range(value: int | None) -> int | None:
    """`value` as Python's integer; `ValueError` unless it is `None` or an integer of at least 1."""
    return None if value is None else integer("criteo", "max_ind_range", value)


def id_modulo(max_ind_range: int | None) -> np.ndarray | None:
    """Modulo of one-hot ids for `CriteoSplit`; they are int32, below any larger limit."""
    return None if max_ind_range is None else np.full(26, min(max_ind_range, 2**31 - 1), np.int32)

"""Schemas with the shape of Criteo's logs."""

from __future__ import annotations

from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.support.arguments import number

# Rows of the tables of Criteo's Kaggle log, C1 … C26 (facebookresearch/dlrm, README).
CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
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
        dense=[f"I{i}" for i in range(1, 14)],
        categorical=[Categorical(f"C{i}", max(3, round(n * scale))) for i, n in enumerate(rows, 1)],
    )

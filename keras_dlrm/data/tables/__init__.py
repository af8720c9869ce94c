"""Tables (CSV, TSV, Parquet, TFRecord, frames) to a processed directory: one reader for each format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.data.tables.files import input_files as input_files
    from keras_dlrm.data.tables.preprocessing import preprocess as preprocess

_NAMES = {"input_files": "files", "preprocess": "preprocessing"}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)

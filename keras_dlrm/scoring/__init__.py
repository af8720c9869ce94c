"""Scoring of whole files and frames: rows in, their ids and click probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.scoring.predict import Scored as Scored
    from keras_dlrm.scoring.predict import predict_files as predict_files
    from keras_dlrm.scoring.predict import predict_rows as predict_rows
    from keras_dlrm.scoring.predict import predict_split as predict_split
    from keras_dlrm.scoring.recommend import recommend_files as recommend_files

_NAMES = dict.fromkeys(("Scored", "predict_files", "predict_rows", "predict_split"), "predict") | {"recommend_files": "recommend"}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)

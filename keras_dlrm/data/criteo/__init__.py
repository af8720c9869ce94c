"""Criteo's raw text logs (Kaggle, Terabyte) to a processed directory: parser, ids, dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.data.criteo.preprocessing import encode as encode
    from keras_dlrm.data.criteo.preprocessing import preprocess as preprocess

_NAMES = {"encode": "preprocessing", "preprocess": "preprocessing"}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)

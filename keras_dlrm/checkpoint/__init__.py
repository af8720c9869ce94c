"""Checkpoints of logical tables and slots: any number of processes, any plan, any backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.checkpoint.reading import restore as restore
    from keras_dlrm.checkpoint.reading import verify as verify
    from keras_dlrm.checkpoint.writing import Checkpoints as Checkpoints
    from keras_dlrm.checkpoint.writing import save as save

_NAMES = {"Checkpoints": "writing", "restore": "reading", "save": "writing", "verify": "reading"}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)

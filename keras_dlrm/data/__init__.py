"""Raw logs to packed batches, and everything that reads or draws a click log.

`criteo` and `tables` turn raw logs into a processed directory, `synthetic` draws one with a known best answer, `open`
reads any of them; `mlperf`, `reference` and `torchrec` read other programs' files as they are. Modules load on first
use, so that `import keras_dlrm` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.data import criteo as criteo
    from keras_dlrm.data import streaming as streaming
    from keras_dlrm.data import synthetic as synthetic
    from keras_dlrm.data import tables as tables
    from keras_dlrm.data.foreign import mlperf as mlperf
    from keras_dlrm.data.foreign import reference as reference
    from keras_dlrm.data.foreign import torchrec as torchrec
    from keras_dlrm.data.packed.packed import ClickLog as ClickLog
    from keras_dlrm.data.packed.packed import FileLog as FileLog
    from keras_dlrm.data.packed.packed import open as open
    from keras_dlrm.data.packed.split import Split as Split
    from keras_dlrm.data.packed.writer import PackedWriter as PackedWriter
    from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect as CsvDialect
    from keras_dlrm.data.preprocessor.preprocessor import Preprocessor as Preprocessor
    from keras_dlrm.data.slot_map import SlotMap as SlotMap

_MODULES = {
    **{name: name for name in ("criteo", "streaming", "synthetic", "tables")},
    **{name: f"foreign.{name}" for name in ("mlperf", "reference", "torchrec")},
}
_NAMES = {
    **dict.fromkeys(("ClickLog", "FileLog", "open"), "packed.packed"),
    **{"PackedWriter": "packed.writer", "Split": "packed.split"},
    **{"CsvDialect": "preprocessor.csv_dialect", "Preprocessor": "preprocessor.preprocessor", "SlotMap": "slot_map"},
}
__all__ = ["open", *sorted(_MODULES), *(name for name in sorted(_NAMES) if name != "open")]

__getattr__, __dir__ = lazy(__name__, _NAMES, _MODULES)

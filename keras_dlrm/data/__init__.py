"""Raw logs → packed batches.

`criteo` and `tables` turn raw logs into a processed directory, `synthetic` draws one with a known best answer, `open`
reads any of them. Modules load on first use, so that `import keras_dlrm` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_dlrm.data import criteo as criteo
    from keras_dlrm.data import synthetic as synthetic
    from keras_dlrm.data import tables as tables
    from keras_dlrm.data.packed import ClickLog as ClickLog
    from keras_dlrm.data.packed import Split as Split
    from keras_dlrm.data.packed import open as open
    from keras_dlrm.data.preprocessor import Preprocessor as Preprocessor
    from keras_dlrm.data.writer import PackedWriter as PackedWriter

_MODULES = ("criteo", "synthetic", "tables")
_NAMES = {
    "ClickLog": "packed",
    "PackedWriter": "writer",
    "Preprocessor": "preprocessor",
    "Split": "packed",
    "open": "packed",
}
__all__ = ["ClickLog", "PackedWriter", "Preprocessor", "Split", "criteo", "open", "synthetic", "tables"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

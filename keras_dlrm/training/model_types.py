"""Types of models in experiments: names of `kd.models`, and classes of one's own."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

#: All models of `kd.models`, without which an experiment is read and checked.
MODELS = (
    "DLRM", "DCN", "DCNv2", "DCNv3", "GDCN", "WideDeep", "FM", "NFM", "DeepFM", "XDeepFM", "AutoInt", "MaskNet", "FinalMLP",
    "Wukong", "RankMixer", "MatrixFactorization", "NeuMF", "TwoTower", "LogisticRegression",
)  # fmt: skip
#: Those that have a deep network, `deep_mlp`.
DEEP = {
    "DCN", "DCNv2", "GDCN", "WideDeep", "NFM", "DeepFM", "XDeepFM", "AutoInt", "MaskNet", "FinalMLP", "Wukong", "NeuMF",
}  # fmt: skip
# A class of one's own: `module:Class`, or `module.Class`.
_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[.:]([A-Za-z_]\w*)")


def is_type(kind: Any) -> bool:
    """Whether it is a name of `kd.models`, or may be one of a class of one's own."""
    return isinstance(kind, str) and (kind in MODELS or _PATH.fullmatch(kind) is not None)


def type_name(model: str | type) -> str:
    """The type of a model for an experiment: `DLRM` and the like as they are, `module:Class` of a class."""
    return f"{model.__module__}:{model.__qualname__}" if isinstance(model, type) else model


def model_class(kind: str) -> Any:
    """The class of a model by its type, `DLRM` or `module:Class`; `ValueError` where there is none."""
    from keras_dlrm import models

    if kind in MODELS:
        return getattr(models, kind)
    module, name = _PATH.fullmatch(kind).groups()  # type: ignore[union-attr]
    try:
        own = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        where = "start in its folder, install it, or put its folder on PYTHONPATH"
        raise ValueError(f"experiment: model type {kind!r}: no module named {error.name!r}; {where}.") from error
    if not isinstance(own, type) or not issubclass(own, models.ClickModel):
        fault = "is not a ClickModel" if own is not None else f"is not in {module}"
        raise ValueError(f"experiment: model type {kind!r}: {name} {fault}; give a subclass of kd.models.ClickModel.")
    return own


def check_arguments(model: Mapping[str, Any]) -> None:
    """`ValueError` for an argument of an experiment's model that is one of the package and does not have it."""
    kind = model["type"]
    if kind not in MODELS or len(model) == 1:
        return
    from keras_dlrm import models

    known: set[str] = set()
    for base in model_class(kind).__mro__:  # a model passes further arguments to its bases
        known |= inspect.signature(base.__init__).parameters.keys()
        if base is models.ClickModel:
            break
    known -= {"self", "schema", "seed", "kwargs"}
    for name in model.keys() - known - {"type"}:
        fix = f"known are {sorted(known)}. Another model is chosen by the option --model, or the argument model."
        raise ValueError(f"experiment: model.{name} is not an argument of {kind}; {fix}")

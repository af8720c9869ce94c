"""Refusal of models that cannot be trained on parameter servers."""

from __future__ import annotations

from typing import Any

from keras_dlrm.embeddings.rules.hybrid import Hybrid
from keras_dlrm.models.click_model import ClickModel


def check(model: Any) -> None:
    """Refuse what cannot be trained on parameter servers: `TypeError` for another model, `ValueError` for an option."""
    if not isinstance(model, ClickModel):
        raise TypeError(f"build: expected a model of kd.models, not {type(model).__name__}.")
    if model.embeddings is None:
        raise ValueError("build: the model has no embedding tables; train it with fit.")
    if not model.compiled or not isinstance(model.optimizer, Hybrid):
        raise ValueError("build: the model is not compiled; build has to return a compiled one.")
    for option in ("gradient_accumulation_steps", "use_ema"):
        if getattr(model.optimizer.dense, option):
            raise ValueError(f"build: the optimizer's {option} is not defined where workers train at the same time; leave it out.")


def check_is_on(model: Any, device: str) -> None:
    """`ValueError` for variables that were made elsewhere."""
    for variable in (*model.variables, *model.optimizer.variables):
        if variable.value.device != device:
            raise ValueError(
                f"build: {variable.path} lies on {variable.value.device}, not on {device}; make the model and its optimizers "
                "anew in each call of build."
            )

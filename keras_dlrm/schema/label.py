"""Labels of a schema, one or several: their names, and the values that they may have."""

from typing import Any

import numpy as np

from keras_dlrm.schema.columns import check_name
from keras_dlrm.support.arguments import shown


def checked_label(label: Any) -> str | tuple[str, ...]:
    """The argument `label` of a schema as it is kept: one name, or several as a tuple."""
    if isinstance(label, (list, tuple)) and len(label) < 2:
        raise ValueError(f"Schema: label={shown(label)} must be one name, or a list of two and more.")
    label = tuple(label) if isinstance(label, list) else label
    for name in names_of(label):
        check_name(name, "Schema: label")
    return label  # type: ignore[no-any-return]


def names_of(label: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of one label or several.

    Example:

    >>> names_of("click"), names_of(("click", "like"))
    (('click',), ('click', 'like'))
    """
    return label if isinstance(label, tuple) else (label,)


def allowed_labels(labels: np.ndarray, soft: bool, missing: bool = False) -> tuple[np.ndarray, str]:
    """A mask of the labels that a log may hold, NaN among them where they may be `missing`, and a text that says which."""
    good = (labels >= 0) & (labels <= 1) if soft else (labels == 0) | (labels == 1)
    allowed = "must be 0 or 1" + (", or a number between" if soft else "")
    return (good | np.isnan(labels), f"{allowed}, or missing") if missing else (good, allowed)

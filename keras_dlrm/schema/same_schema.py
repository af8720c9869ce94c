"""Comparison of schemas: whether packed batches of one mean the same in another."""

from keras_dlrm.schema.columns import Categorical, Dense
from keras_dlrm.schema.schema import Schema

SIZES = ("vocabulary_size", "hotness", "hashed", "oov", "oov_rows", "crossed", "open")
# What to do where the log is another one.
_LOG = (
    "take the data and the preprocessor of the log that the model was trained on (kd.models.grow makes a model follow a grown "
    "vocabulary)"
)


def check_same(who: str, model: Schema, data: Schema, *, scores: bool = False, fix: str = _LOG) -> None:
    """Refuse data for a model that was made for other data.

    Columns are compared by name, order and size, and where both schemas come from a preprocessor also by the vocabulary and
    the statistics that it fitted.

    Args:
        who: Who asks; the error begins with it.
        model: Schema of the model.
        data: Schema of the data, or of the preprocessor.
        scores: Whether the model is to be scored on the data: then the label's name and the dense transforms must agree, too.
        fix: What to do about it.

    Raises:
        ValueError: the message names the first column that differs, and in what.

    Example:

    >>> check_same("evaluate", Schema(dense=["age"]), Schema(dense=["price"]))
    Traceback (most recent call last):
    ValueError: evaluate: the data has no column 'age', which the model takes, and has 'price' besides; ...
    """
    difference = _difference(model, data, scores)
    if difference is not None:
        raise ValueError(f"{who}: {difference}; {fix}.")


def _difference(model: Schema, data: Schema, scores: bool) -> str | None:
    """The first difference, in words."""
    missing = [name for name in model.column_names if name not in data.column_names]
    more = [name for name in data.column_names if name not in model.column_names]
    if missing:
        return f"the data has no column {missing[0]!r}, which the model takes" + (f", and has {more[0]!r} besides" if more else "")
    if more:
        return f"the data has a column {more[0]!r}, which the model does not take"
    for kind in ("dense_names", "categorical_names"):
        for here, there in zip(getattr(model, kind), getattr(data, kind), strict=False):
            if here != there:
                return f"the columns stand in another order: {here!r} in the model where the data has {there!r}"
        if len(getattr(model, kind)) != len(getattr(data, kind)):
            return f"the model has the dense columns {list(model.dense_names)}, the data {list(data.dense_names)}"
    for ours, theirs in zip([*model.dense, *model.categorical], [*data.dense, *data.categorical], strict=True):
        difference = _of_column(ours, theirs, scores)  # type: ignore[arg-type]
        if difference is not None:
            return f"column {ours.name!r} {difference}"
    if model.weighted != data.weighted:
        return f"weighted={model.weighted} in the model, {data.weighted} in the data"
    if scores and model.label != data.label:
        return f"the label is {model.label!r} in the model, {data.label!r} in the data"
    return None


def _of_column(ours: Dense | Categorical, theirs: Dense | Categorical, scores: bool) -> str | None:
    fields = SIZES if isinstance(ours, Categorical) else ("transform",) if scores else ()
    for field in fields:
        here, there = getattr(ours, field), getattr(theirs, field)
        if here != there:
            return f"has {field}={here} in the model, {there} in the data"
    if ours.identity is not None and theirs.identity is not None and ours.identity != theirs.identity:
        if isinstance(ours, Categorical):
            return "has another vocabulary in the data than in the model, of the same size: its ids mean other values"
        return "was transformed by other statistics in the data than the model was trained with"
    return None

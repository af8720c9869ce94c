"""Search space of tuning: ranges and choices around an experiment's values, and the experiment of some values."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_dlrm.training.experiment import Experiment

# Widths at the end of an MLP that follow from others: that of the tables, and the logit's.
_MLPS = {"bottom_mlp": 1, "top_mlp": 1, "deep_mlp": 0}


class Range(NamedTuple):
    """Numbers between two, uniform in their logarithm where `log` is true."""

    low: float
    high: float
    log: bool

    def __str__(self) -> str:
        return f"{self.low:.3g} … {self.high:.3g}"


class Choice(NamedTuple):
    """Some values; lists are JSON texts."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Space = Mapping[str, Range | Choice]


def search_space(experiment: Experiment, schema: Any, fixed: Collection[str] = ()) -> dict[str, Range | Choice]:
    """Ranges and choices by key of the experiment, such as `"model.dropout"`; only values that it states are searched.

    Learning rates are searched to a fifth and to the fivefold, `l2` to a thirtieth and the thirtyfold, `init_scale` to a tenth
    and the tenfold, uniform in the logarithm; dropout to .3 below and above; table widths and batches are halved or doubled;
    hidden layers of an MLP are halved or doubled, and there may be one fewer or one more; cross layers one fewer or two more.
    Interactions are `"cat_dot"`, `"cat"` and `"dot"`, structures of DCNv2 both.

    Args:
        experiment: Whose values are in the middle.
        schema: Of the log.
        fixed: Keys that are left alone, such as `"batch_size"` or `"model"`.

    Example:

    >>> from keras_dlrm.training.experiment import Experiment
    >>> small = Experiment(model={"type": "DCN", "dropout": 0.1}, optimizer={"name": "adam", "learning_rate": 0.001})
    >>> for key, values in search_space(small, kd.Schema(dense=["x"]), fixed=["batch_size"]).items():
    ...     print(key, values)
    optimizer.learning_rate 0.0002 … 0.005
    model.dropout 0 … 0.4
    """
    model: Mapping[str, Any] = experiment.model
    space: dict[str, Range | Choice] = {}
    for part in ("optimizer", "embedding_optimizer"):
        space |= _rates(part, getattr(experiment, part))
    space["batch_size"] = _choice(experiment.batch_size // 2, experiment.batch_size, experiment.batch_size * 2)
    width, dropout = model.get("embedding_dim"), model.get("dropout")
    if isinstance(width, int):
        space["model.embedding_dim"] = _choice(width // 2, width, width * 2)
    for name, last in _MLPS.items():
        if isinstance(widths := model.get(name), list) and (hidden := widths[: len(widths) - last]):
            space[f"model.{name}"] = _choice(*map(json.dumps, _shapes(hidden)))
    if isinstance(dropout, (int, float)):
        space["model.dropout"] = Range(round(max(0.0, dropout - 0.3), 6), round(min(0.9, dropout + 0.3), 6), log=False)
    space |= _around("model.init_scale", model.get("init_scale"), 10)
    crosses = {name: model.get(name) for name in ("self_interaction", "concat_dense", "cross_layers", "projection_dim")}
    kinds = ("cat_dot", "cat", "dot")
    if model.get("interaction") in kinds and not any(crosses.values()) and len(schema.categorical) > 1:
        space["model.interaction"] = _choice(*kinds)
    elif crosses["cross_layers"] and model.get("interaction") in (None, "cross"):
        space["model.cross_layers"] = _choice(*(crosses["cross_layers"] + more for more in (-1, 0, 1, 2)))
    if "structure" in model:
        space["model.structure"] = _choice("stacked", "parallel")
    return {key: values for key, values in space.items() if not any(f"{key}.".startswith(f"{name}.") for name in fixed)}


def _rates(part: str, spec: Any) -> dict[str, Range | Choice]:
    if not isinstance(spec, Mapping):
        return {}
    key, rate = f"{part}.learning_rate", spec.get("learning_rate")
    if isinstance(rate, Mapping):  # of a schedule
        key, rate = f"{key}.learning_rate", rate.get("learning_rate")
    return {**_around(key, rate, 5), **_around(f"{part}.l2", spec.get("l2"), 30)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _around(key: str, value: Any, factor: float) -> dict[str, Range | Choice]:
    return {key: Range(value / factor, value * factor, log=True)} if _is_number(value) and value > 0 else {}


def _choice(*values: Any) -> Choice:
    """Different ones of some values, numbers from 1 on."""
    return Choice(tuple(dict.fromkeys(value for value in values if not _is_number(value) or value >= 1)))


def _shapes(hidden: Sequence[int]) -> Iterable[list[int]]:
    yield from ([max(1, round(width * factor)) for width in hidden] for factor in (0.5, 1, 2))
    if len(hidden) > 1:
        yield list(hidden[1:])
    yield [hidden[0], *hidden]


def values_of(experiment: Experiment, space: Space) -> dict[str, Any]:
    """The experiment's own values of a search space's keys."""
    data, values = experiment.to_dict(), {}
    for key in space:
        value: Any = data
        for part in key.split("."):
            value = value[part]
        last = _MLPS.get(key.removeprefix("model."))
        values[key] = value if last is None else json.dumps(value[: len(value) - last])
    return values


def with_values(experiment: Experiment, space: Space, values: Mapping[str, Any]) -> Experiment:
    """The experiment with values of a search space, of which each that is another has its reason; numbers have three digits."""
    own = values_of(experiment, space)
    changed = {key: _rounded(value) for key, value in values.items() if not _same(value, own[key])}
    reasons = {key: f"tuned: {space[key]}; {own[key]} before" for key in changed}
    for name, count in _MLPS.items():
        if (key := f"model.{name}") in changed:
            last = experiment.model[name][len(experiment.model[name]) - count :]
            if name == "bottom_mlp":
                last = [changed.get("model.embedding_dim", *last)]
            changed[key] = [*json.loads(changed[key]), *last]
    tuned = experiment.override(changed)
    return dataclasses.replace(tuned, reasons={**tuned.reasons, **reasons})


def _same(value: Any, own: Any) -> bool:
    return math.isclose(value, own, rel_tol=1e-9) if _is_number(value) and _is_number(own) else value == own


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value

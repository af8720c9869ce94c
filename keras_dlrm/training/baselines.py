"""Baselines beside a result: the click rate and a logistic regression, whether a model beats them, and what to try if not."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from keras_dlrm.metrics import Difference, paired_difference, scores
from keras_dlrm.training.calibrating import lacking, logits_of
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.linear import LinearModel, sigmoid
from keras_dlrm.training.recipe import recipe

RATE, LOGISTIC = "click rate", "logistic regression"
# A log is fitted once, however many models are trained on it.
_FITTED: WeakKeyDictionary[Any, LinearModel] = WeakKeyDictionary()
# The verdict looks at two scores, either of which may differ by chance: together they are to be wrong in 5% of all cases at most.
_CONFIDENCE = 1 - 0.05 / 2
_APART = 0.5  # an interval of AUC differences that says nothing
_GIVEN_AWAY = 0.999  # an AUC that no click log has
_OVERFIT = 1.02  # log loss of validation rows over that of training rows


def logistic_regression(log: Any) -> LinearModel:
    """The logistic regression of a log's training part; its `rate` is the click rate."""
    if log not in _FITTED:
        model = LinearModel(log.schema)
        valid = log.split("valid") if "valid" in log.splits and len(log.split("valid")) else None
        model.fit(log.split("train"), valid)
        _FITTED[log] = model
    return _FITTED[log]


def baseline_predictions(log: Any, name: str, calibrated: bool = False) -> dict[str, np.ndarray]:
    """Predictions p(click) of both baselines for the rows of a part of a log, in file order: float64 (N,) by baseline.

    `calibrated`: with the shift to the click rate of the validation part that a model beside them has.
    """
    linear = logistic_regression(log)

    def of_part(part: Any) -> dict[str, np.ndarray]:
        return {RATE: np.full(len(part), linear.rate), LOGISTIC: linear.predict(part)}

    every = of_part(log.split(name))
    if calibrated:
        valid = log.split("valid")
        for key, expected in of_part(valid).items():
            every[key] = sigmoid(logits_of(every[key]) + lacking(valid.labels, expected, valid.sample_weights()))
    return every


def beside(experiment: Experiment, log: Any, name: str, probabilities: np.ndarray, result: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of the baselines on a part of a log, and whether a model is better.

    Args:
        experiment: What the model was trained by.
        log: A `ClickLog` with a training part.
        name: The part.
        probabilities: p(click) of its rows by the model, in file order, (N,).
        result: Of the run: `history`, `epochs`, `best_epoch`, `shifts`.

    Returns:
        JSON values: `baselines`, rows of `{"model", "part", "auc", "logloss", …}`; `against`, the differences of the model and
        the best of them by score, with their 97.5% intervals; `verdict`, which says it in words.
    """
    kind = experiment.model["type"]
    part, others = log.split(name), baseline_predictions(log, name, bool(result.get("shifts")))
    labels, weights = np.asarray(part.labels), part.sample_weights()
    if kind == "LogisticRegression":
        del others[LOGISTIC]
    scored = {key: scores(labels, values, weights) for key, values in others.items()}
    rows = [{"model": key, "part": name, **values} for key, values in scored.items()]
    other = list(others)[-1]
    against = paired_difference(labels, probabilities, others[other], weights, _CONFIDENCE)
    text = verdict(kind, other, against, experiment, log, result)
    if scored[other]["auc"] >= _GIVEN_AWAY:
        text += f" The {other} ranks nearly all rows right: a column may give the label away; leave out what only follows a click."
    read = logistic_regression(log).rows
    if other == LOGISTIC and read < len(log.split("train")):
        text += f" The {LOGISTIC} was trained on {read:,} rows."
    intervals = {score: {"difference": d.difference, "low": d.low, "high": d.high} for score, d in against.items()}
    return {"baselines": rows, "against": {"model": other, **intervals}, "verdict": text}


def verdict(
    model: str, other: str, against: Mapping[str, Difference], experiment: Experiment, log: Any, result: Mapping[str, Any]
) -> str:
    """Whether a model is better than a baseline in AUC or log loss, and if it is worse what to try.

    With 97.5% intervals, two equal models are told apart in at most 5% of all cases, both scores together (Bonferroni).

    Args:
        model: Its name.
        other: Name of the baseline.
        against: Differences of the model and the baseline, as of `paired_difference`.
        experiment: What the model was trained by.
        log: What it was trained on, a `ClickLog`.
        result: Of the run: `history`, `epochs`, `best_epoch`.

    Example:

    >>> against = {"auc": Difference(0.01, 0.004, 0.016, 0.002), "logloss": Difference(-0.01, -0.02, -0.001, 0.03)}
    >>> verdict("DLRM", LOGISTIC, against, Experiment(), None, {})
    'DLRM beats the logistic regression by more than noise: AUC +0.0100 ± 0.0060, log loss -0.0100 ± 0.0095.'
    """
    auc, loss = against["auc"], against["logloss"]
    better, worse = auc.low > 0 or loss.high < 0, auc.high < 0 or loss.low > 0
    if auc.high - auc.low > _APART:
        return f"{model} and the {other} cannot be told apart: the part that is scored has too few clicks, or rows without one."
    if better and worse:
        said = "ranks better than" if auc.difference > 0 else "ranks worse than"
        said = f"{said} the {other}, and its probabilities are {'worse' if auc.difference > 0 else 'better'}"
    elif worse:
        said = f"loses to the {other} by more than noise"
    else:
        said = f"beats the {other} by more than noise" if better else f"and the {other} do not differ by more than noise"
    figures = (f"{name} {d.difference:+.4f} ± {(d.high - d.low) / 2:.4f}" for name, d in (("AUC", auc), ("log loss", loss)))
    text = f"{model} {said}: {', '.join(figures)}."
    return f"{text} What to try: {'; '.join(advice(experiment, log, result))}." if worse else text


def advice(experiment: Experiment, log: Any, result: Mapping[str, Any]) -> list[str]:
    """Advice for a model that loses to its baseline, the most promising first, three things at most.

    Args:
        experiment: What the model was trained by.
        log: What it was trained on, a `ClickLog`.
        result: Of the run: `history`, `epochs`, `best_epoch`.
    """
    history, epochs, best = result["history"], result["epochs"], result["best_epoch"]
    overfit = _overfit(history, best)
    tips = []
    usual = recipe(log, experiment.model["type"])
    changed = [key for key in usual.reasons if _value(experiment, key) != _value(usual, key) and key != "epochs"]
    if len(changed) > len(usual.reasons) // 2:
        tips.append("no --config and no options: all values follow from the log then")
    elif changed:
        tips.append(f"the usual {', '.join(changed[:3])}, which follows from the log")
    if best == epochs and result.get("ended_by") == "time budget":
        tips.append("more time: the last epoch was the best")
    if best == epochs == experiment.epochs and not overfit:
        tips.append(f"--epochs {max(10, 3 * epochs)}: the last epoch was the best")
    rate = _rate(experiment.optimizer)
    if best == 1 < epochs and rate is not None:
        tips.append(f"--learning-rate {rate / 5:.2g}: the first epoch was the best")
    if overfit:
        rows = experiment.embedding_optimizer
        if rows is not None and not (isinstance(rows, Mapping) and rows.get("l2")):
            tips.append("--set embedding_optimizer.l2=0.001: it fits the training rows better than others")
        if "dropout" in experiment.model and not experiment.model["dropout"]:
            tips.append("--set model.dropout=0.5")
    if not experiment.averaging:
        tips.append("--set averaging=0.999")
    if experiment.monitor == "auc":
        tips.append("--set monitor=both, so that probabilities count, too")
    if not tips and "embedding_dim" in experiment.model:
        tips.append("--set model.embedding_dim=4, a smaller model")
    return tips[:3] or ["keras-dlrm tune", "other columns: these may hardly interact"]


def _value(experiment: Experiment, key: str) -> Any:
    outer, _, inner = key.partition(".")
    value = getattr(experiment, outer)
    return value.get(inner) if inner else value


def _overfit(history: Mapping[str, Any], best: int) -> bool:
    """Whether the best epoch, or a later one, fits the training rows better than the others."""
    if "val_logloss" not in history or "logloss" not in history:
        return False
    pairs = zip(history["val_logloss"][best - 1 :], history["logloss"][best - 1 :], strict=True)
    return any(valid > _OVERFIT * train for valid, train in pairs)


def _rate(optimizer: Any) -> float | None:
    rate = optimizer.get("learning_rate") if isinstance(optimizer, Mapping) else None
    return rate if isinstance(rate, float) else None

"""One trial of a tuning: an experiment trained and scored on the validation part, without a file."""

import gc
from collections.abc import Callable
from datetime import datetime
from typing import Any

import keras

from keras_dlrm.backend.private_keras import without_tensorflow
from keras_dlrm.training.averaging import Averaging
from keras_dlrm.training.callbacks import BestModel, TimeBudget, scoring_batch
from keras_dlrm.training.experiment import Experiment


def run_trial(
    study: Any, trial: Any, experiment: Experiment, log: Any, seconds: float | None, show: Callable[[str], None]
) -> str:
    """Train and score an experiment, and tell the study, whatever becomes of it; a line that says it.

    Args:
        study: An Optuna study.
        trial: Its trial that runs.
        experiment: With the trial's values.
        log: A click log with a validation part.
        seconds: After which the trial ends with its best so far; `None` for as many as it takes.
        show: Is told how far it is.
    """
    import optuna

    states = optuna.trial.TrialState
    try:
        best, pruned = _trained(experiment, log, seconds, trial, show)
    except Exception as error:  # no memory, numbers that are not finite: the next trial has other values
        trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:1000])
        study.tell(trial, state=states.FAIL)
        return f"trial {trial.number}: failed, {type(error).__name__}: {str(error)[:200]}"
    except BaseException:
        study.tell(trial, state=states.FAIL)  # without an error: it is lost
        raise
    finally:
        gc.collect()  # what the model had
    scores = {name: best.history[f"val_{name}"][best.best_epoch] for name in ("auc", "logloss", "ne")}
    for name, value in {**scores, "epochs": len(best.history["loss"])}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, None if pruned else best.best, states.PRUNED if pruned else states.COMPLETE)
    line = f"trial {trial.number}: AUC {scores['auc']:.4f}, log loss {scores['logloss']:.4f}, epoch {best.best_epoch + 1}"
    if pruned:
        return f"{line}, pruned"
    return f"{line}; the best is trial {study.best_trial.number}"


@without_tensorflow()
def _trained(
    experiment: Experiment, log: Any, seconds: float | None, trial: Any, show: Callable[[str], None]
) -> tuple[BestModel, bool]:
    """Train as `train` does, so that it gets the same weights: their scores on the validation part, and whether it was pruned."""
    keras.utils.set_random_seed(experiment.seed)
    part = log.split("train")
    model = experiment.build(log.schema)
    model.make_room(part.dataset(experiment.batch_size))
    averaging = Averaging(experiment.averaging) if experiment.averaging else None
    rules = experiment.monitor, experiment.patience, experiment.lr_factor
    best = BestModel(log.split("valid"), None, scoring_batch(model, experiment.batch_size), *rules, averaging)
    budgets = [budget for budget in (experiment.time_budget or None, seconds) if budget is not None]
    budget = TimeBudget(max(min(budgets), 1e-9) if budgets else 0.0)
    dataset = part.dataset(experiment.batch_size, shuffle=True, seed=experiment.seed)
    epochs = _Epochs(trial, best, show)
    callbacks = [*([] if averaging is None else [averaging]), best, budget, epochs]
    model.fit(dataset, epochs=experiment.epochs, verbose=0, callbacks=callbacks)
    return best, epochs.pruned


class _Epochs(keras.callbacks.Callback):
    """Tells a trial the best score after each epoch, and ends the trial where the study says so; not that of the experiment."""

    def __init__(self, trial: Any, best: BestModel, show: Callable[[str], None]) -> None:
        super().__init__()
        self.trial, self.best, self.show = trial, best, show
        self.may_end, self.pruned = not trial.user_attrs.get("own"), False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.show(f"trial {self.trial.number}, epoch {epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.trial.set_user_attr("seconds", (datetime.now() - self.trial.datetime_start).total_seconds())
        self.trial.report(self.best.best, epoch)
        if self.may_end and not self.model.stop_training and self.trial.should_prune():
            self.pruned = self.model.stop_training = True

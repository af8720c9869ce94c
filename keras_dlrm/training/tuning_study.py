"""Trials of a tuning: an Optuna study in SQLite that several processes share, and that survives their being killed."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.ownership import held
from keras_dlrm.training.run_files import DATABASE
from keras_dlrm.training.tuning_space import Choice, Space

_NAME = "tune"
_STARTS = 8  # trials before the sampler looks at scores
_COMPARED = 4  # trials that the pruner needs
_HOPELESS = 3  # failures and nothing else


class SharedStudy:
    """A study in a folder, which any number of processes works on.

    While a process works, it holds a lock; so a trial that runs without one was lost with its process, and counts as failed.
    Random numbers follow from the seed and a trial's number, so that processes do not try the same. The first trials keep about
    half of the values of the experiment, but not its learning rate: far from a good one most points are worse, and there may be
    time for few.

    Args:
        folder: That exists.
        space: Search space of `search_space`.
        own: Values of the first trial, those of the experiment around which the space is.
        seed: Of the sampler.
    """

    def __init__(self, folder: Path, space: Space, own: Mapping[str, Any], seed: int) -> None:
        import optuna

        self.folder, self.own, self.seed = folder, own, seed
        self._process = uuid.uuid4().hex[:12]
        self._sampler = optuna.samplers.TPESampler
        self._failed, self._running = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.RUNNING
        float_range, choice = optuna.distributions.FloatDistribution, optuna.distributions.CategoricalDistribution
        self._distributions: dict[str, Any] = {
            key: choice(values.values) if isinstance(values, Choice) else float_range(values.low, values.high, log=values.log)
            for key, values in space.items()
        }
        with self._turn():
            options = {"connect_args": {"timeout": 60}}
            storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / DATABASE).absolute()}", engine_kwargs=options)
            pruner = optuna.pruners.MedianPruner(n_startup_trials=_COMPARED, n_warmup_steps=1)
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it says the name of each new study
            try:
                self.study = optuna.create_study(
                    storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True, pruner=pruner
                )
            finally:
                optuna.logging.set_verbosity(verbosity)
            self._fail_lost()
            if all(is_lost(trial) for trial in self.trials() if trial.user_attrs.get("own")):
                self.study.enqueue_trial(dict(own), user_attrs={"own": True})

    def trials(self) -> list[Any]:
        """All trials so far, in their order."""
        return self.study.get_trials(deepcopy=False)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While this context is open, this process may begin trials."""
        with held(self._place(self._process), "this process works already"):
            yield

    def begin(self, trials: int | None, seconds: float | None) -> tuple[Any, float | None] | None:
        """The next trial with its values, and the seconds that are left for it; `None` where the budget is used up.

        Args:
            trials: Most trials of the study, without lost ones; `None` for any number.
            seconds: Most seconds in which some process works on it; `None` for any number.

        Raises:
            ValueError: nothing but failures so far; it has the error of the last one.
        """
        with self._turn():
            self._fail_lost()
            begun = self.trials()
            counted = [trial for trial in begun if not is_lost(trial) and trial.state.name != "WAITING"]
            failed = [trial for trial in counted if trial.state == self._failed]
            if len(failed) == len(counted) >= _HOPELESS:
                raise ValueError(f"tune: all of {len(failed)} trials failed, the last one with: {failed[-1].user_attrs['error']}")
            left = None if seconds is None else seconds - seconds_used(begun)
            if trials is not None and len(counted) >= trials:
                return None
            # One trial at least is scored, however little time there is.
            if left is not None and left <= 0 and len(failed) < len(counted):
                return None
            draw = np.random.default_rng([self.seed, len(begun)])
            if len(begun) < _STARTS and not any(trial.state.name == "WAITING" for trial in begun):
                others = list(self.own)[1:]  # the first is another in each of them: a learning rate, where one is searched
                self.study.enqueue_trial({key: self.own[key] for key in others if draw.random() < 0.5})
            self.study.sampler = self._sampler(n_startup_trials=_STARTS, seed=int(draw.integers(2**32)))
            trial = self.study.ask(self._distributions)
            trial.set_user_attr("process", self._process)
            return trial, left

    def settle(self) -> None:
        """Count trials whose process has ended as failed."""
        with self._turn():
            self._fail_lost()

    def _fail_lost(self) -> None:
        for trial in self.trials():
            if trial.state == self._running and not self._is_working(trial.user_attrs.get("process")):
                self.study.tell(trial.number, state=self._failed)

    def _is_working(self, process: str | None) -> bool:
        try:
            with held(self._place(process), "it works"):
                return False
        except RuntimeError:
            return True

    def _place(self, process: str | None) -> Path:
        return self.folder / f".process-{process}"

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """While this context is open, no other process begins a trial."""
        descriptor = os.open(self.folder / ".turn", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def is_lost(trial: Any) -> bool:
    """Whether a trial ended with its process, rather than with an error of its own."""
    return trial.state.name == "FAIL" and "error" not in trial.user_attrs


def seconds_used(trials: list[Any]) -> float:
    """Seconds in which at least one of the trials ran; of a lost one until its last epoch."""
    spans = []
    for trial in trials:
        if trial.datetime_start is not None:
            end = trial.datetime_complete or datetime.now()
            if is_lost(trial):  # which was found out later
                end = trial.datetime_start + timedelta(seconds=trial.user_attrs.get("seconds", 0.0))
            spans.append((trial.datetime_start, end))
    used, until = 0.0, datetime.min
    for start, end in sorted(spans):
        used += max(0.0, (end - max(start, until)).total_seconds())
        until = max(until, end)
    return used


def importances(study: Any) -> dict[str, float]:
    """Share of each value in what separates the best tenth of the complete trials from all (PED-ANOVA, Watanabe et al. 2023).

    Empty for fewer than ten.
    """
    import optuna

    if sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)) < 10:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


@contextlib.contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the database into an `OSError` that names its file."""
    import optuna
    import sqlalchemy

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        raise OSError(f"{folder / DATABASE} cannot be used ({cause}); make room, or give another output.") from error

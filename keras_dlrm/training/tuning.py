"""Tuning: `kd.tune` looks for a better experiment than the recipe, on the validation part alone."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from rich.console import Console

from keras_dlrm import data as data_package
from keras_dlrm.files.durable import check_writable, write
from keras_dlrm.sharding.launch import on_cores_of
from keras_dlrm.sharding.processes import PARENT, end_with_launcher
from keras_dlrm.support.arguments import integer, number, worker_count
from keras_dlrm.support.differences import difference, shown
from keras_dlrm.support.installs import require
from keras_dlrm.support.terminal import print_table
from keras_dlrm.training import run_files
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.model_types import type_name
from keras_dlrm.training.page import Report
from keras_dlrm.training.recipe import recipe
from keras_dlrm.training.run import check_parts
from keras_dlrm.training.tuning_page import tuning_page
from keras_dlrm.training.tuning_space import Space, search_space, values_of, with_values
from keras_dlrm.training.tuning_study import SharedStudy, importances, is_lost, readable_errors
from keras_dlrm.training.tuning_trial import run_trial

if TYPE_CHECKING:
    import polars as pl

SETTINGS, BEST, TRIALS, PAGE = "tune.json", "best.yaml", "trials.csv", "report.html"
TEN_MINUTES = 600.0
_SHOWN = ("trial", "state", "auc", "logloss", "ne", "epochs", "seconds")
_MOST = 10  # trials in a table


@dataclasses.dataclass(frozen=True, repr=False)
class Tuning:
    """Trials of an experiment's values, and the best of them. A notebook shows the report, a terminal its tables.

    Attributes:
        output: Folder of the study.
        best: The experiment with the best score, with reasons for the values that tuning changed; it is `best.yaml`, too.
        best_trial: Its number in `trials`.
        trials: A row for each trial: `trial`, `state` (`"complete"`, `"pruned"`, `"failed"`, `"lost"` with its process, or
            `"running"`), `score`, `auc`, `logloss`, `ne`, `epochs`, `seconds`, `error`, and its values by key.
        values: A row for each value that was searched: its key as `value`, what it was `before`, what it is in the `best`, what
            was `searched`, and its `importance`, the share in what separates the best trials from the others; `None` for
            fewer than ten complete ones.
    """

    output: Path
    best: Experiment
    best_trial: int
    trials: pl.DataFrame
    values: Sequence[Mapping[str, Any]]

    def report(self) -> Report:
        """The path of `report.html`: trials, their values, charts. A notebook shows the page."""
        return Report(self.output / PAGE)

    def __repr__(self) -> str:
        text = io.StringIO()
        scored = [row for row in self.trials.to_dicts() if row["score"] is not None]
        ranked = sorted(scored, key=lambda row: -row["score"])[:_MOST]
        title = "trials, by score on the validation part"
        print_table([{key: row[key] for key in _SHOWN} for row in ranked], title, text, width=80)
        keys = ("value", "before", "best", *(["importance"] if self.values[0]["importance"] is not None else []))
        values = [{key: _text(row[key]) for key in keys} for row in self.values]
        print_table(values, f"\nvalues of trial {self.best_trial}", text, width=80)
        return f"{text.getvalue()}\nbest.yaml and report.html: {self.output}"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def tune(
    data: Any, model: str | type | None = None, *, experiment: Experiment | str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None, fixed: Collection[str] = (), time_budget: float | None = None,
    trials: int | None = None, jobs: int = 1, imports: Sequence[str] = (), output: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> Tuning:  # fmt: skip
    """Try values around an experiment's, and keep those with the best score on the validation part.

    The first trial is the experiment itself, so the best is never worse on that part. Others are chosen by Optuna (TPE, Akiba et
    al. 2019) within `search_space`; those that are worse than the median after an epoch end early. The score is the experiment's
    `monitor`; the test part is never read. Trials that fail, as for lack of memory, are listed and tuning goes on.

    A folder with a study of the same experiment and data is continued, until the budget of all processes together is used up;
    they may run at the same time.

    Args:
        data: A `ClickLog` of `kd.data.open`, such as `log` of a `kd.Run`, or its directory.
        model: As of `kd.train`; what follows from the log for it (`recipe`) is tuned.
        experiment: An `Experiment` or its YAML file to tune, in place of that.
        settings: Single values of the experiment, as of `kd.train`; they stay as they are.
        fixed: Other keys that stay as they are, such as `"batch_size"` or `"model"`.
        time_budget: Seconds of tuning; ten minutes if neither this nor `trials` is given.
        trials: Most trials.
        jobs: Processes that try at the same time.
        imports: Modules that the processes of `jobs` import, with classes of one's own.
        output: Folder of the study; `runs/tune-<model>-<time>` by default.
        verbose: Whether to tell on standard error of each trial.

    Returns:
        The `Tuning`. The folder has `best.yaml`, which `keras-dlrm train --config` takes, `trials.csv`, `report.html`, and the
        study in `study.db`.

    Raises:
        FileExistsError: `output` has other content.
        ImportError: Optuna is not installed.
        OSError: `output` cannot be written to.
        ValueError: no validation part, a study of something else, nothing to tune, or nothing but trials that fail.

    Example:

    ```python
    tuning = kd.tune("my-log", model="DCNv2", time_budget=1800, jobs=2)
    print(tuning)
    run = kd.train("my-log", experiment=tuning.best)
    ```
    """
    require("tune", "optuna")
    if model is not None and experiment is not None:
        raise ValueError("tune: give either model=… or experiment=…, which names its model.")
    console = Console(stderr=True, quiet=not verbose, force_jupyter=False)
    log = data_package.open(data) if isinstance(data, (str, os.PathLike)) else data
    if "valid" not in log.splits or not len(log.split("valid")) or not len(log.split("train")):
        raise ValueError(f"{log.directory}: tuning needs rows to train on and a validation part to score; cut the log again.")
    if time_budget is not None and not number("tune", "time_budget", time_budget):
        raise ValueError("tune: time_budget=0 leaves no time; give more seconds, or None.")
    trials = None if trials is None else integer("tune", "trials", trials)
    time_budget = TEN_MINUTES if trials is None and time_budget is None else time_budget
    if experiment is None:
        experiment = recipe(log, type_name(model or "DLRM"))
    elif not isinstance(experiment, Experiment):
        experiment = Experiment.load(Path(experiment))
    experiment, fixed = experiment.override(settings or {}), {*fixed, *(settings or {})}
    space = search_space(experiment, log.schema, fixed)
    if not space:
        raise ValueError(f"tune: the experiment has no value to tune besides {shown(sorted(fixed))}; leave some of them out.")
    kind = experiment.model["type"].rpartition(":")[2].lower()
    output = run_files.stamped(f"tune-{kind}") if output is None else Path(output)
    _prepare(output, experiment, fixed, check_parts(log))
    with readable_errors(output):
        study = SharedStudy(output, space, values_of(experiment, space), experiment.seed)
        try:
            if integer("tune", "jobs", jobs) == 1:
                _work(study, log, experiment, space, trials, time_budget, console)
            else:
                _work_elsewhere(jobs, [str(output), str(log.directory), json.dumps([trials, time_budget]), *imports])
        except KeyboardInterrupt:
            with contextlib.suppress(ValueError):
                _finish(study, log, experiment, space)
            raise
        return _finish(study, log, experiment, space)


def _prepare(output: Path, experiment: Experiment, fixed: Collection[str], fingerprint: dict[str, Any]) -> None:
    """Write what is tuned into a new folder; an error where a folder has something else."""
    check_writable(output)
    text = json.dumps({"experiment": experiment.to_dict(), "fixed": sorted(fixed), "data": fingerprint}, indent=2)
    path = output / SETTINGS
    if not path.exists():
        if any(not each.name.startswith(".") for each in output.iterdir()):  # those are another process's, which writes it now
            raise FileExistsError(f"{output} has content and is no study of tune; give another output.")
        return write(path, text)
    if (first := difference(json.loads(path.read_text(encoding="utf-8")), json.loads(text))) is not None:
        place, saved, own = first
        differs = f"{place} is {shown(saved)} there, {shown(own)} now"
        raise ValueError(f"{output} is a study of something else: {differs}. Give another output.")


def _work(
    study: SharedStudy, log: Any, experiment: Experiment, space: Space, trials: int | None, seconds: float | None,
    console: Console,
) -> None:  # fmt: skip
    """Try until the budget is used up."""
    with study.working(), console.status("tuning") as status:
        while (begun := study.begin(trials, seconds)) is not None:
            trial, left = begun
            tried = with_values(experiment, space, trial.params)
            line = run_trial(study.study, trial, tried, log, left, lambda text: status.update(text))
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _work_elsewhere(jobs: int, arguments: Sequence[str]) -> None:
    """Try in other processes, until all have ended; they end with this one."""
    program = (
        "import sys; from keras_dlrm.support.quiet import lean_imports, quiet_imports\n"
        "with quiet_imports(), lean_imports(): from keras_dlrm.training.tuning import work; work(sys.argv[1:])"
    )
    # On a GPU each takes the memory that it needs; without cores of its own each would start a thread for every core.
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "OMP_NUM_THREADS": "1"}
    if jobs <= worker_count("tune", None):
        del shared["OMP_NUM_THREADS"]
    environment = {**shared, **os.environ, "KERAS_BACKEND": keras.backend.backend(), PARENT: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(jobs):
            with on_cores_of(i, jobs):
                command = [sys.executable, "-c", program, *arguments]
                processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if all(codes):
        raise RuntimeError(f"tune: all {jobs} processes failed, with exit codes {codes}; what each said is above.")


def work(arguments: Sequence[str]) -> None:
    """Try in this process, one of `jobs`: folder, directory of the log, budget in JSON, modules to import."""
    end_with_launcher()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the process that started this one ends it
    folder, directory, budget, *modules = arguments
    for name in modules:
        importlib.import_module(name)
    settings = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    log, experiment = data_package.open(directory), Experiment.from_dict(settings["experiment"])
    space = search_space(experiment, log.schema, settings["fixed"])
    try:
        with readable_errors(Path(folder)):
            study = SharedStudy(Path(folder), space, values_of(experiment, space), experiment.seed)
            trials, seconds = json.loads(budget)
            _work(study, log, experiment, space, trials, seconds, Console(stderr=True))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


def _finish(study: SharedStudy, log: Any, experiment: Experiment, space: Space) -> Tuning:
    """Write the files that hold the result; what they say."""
    study.settle()
    trials = study.trials()
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        raise ValueError(f"tune: no trial of {len(trials)} is complete; run it again, with more time.")
    best = max(complete, key=lambda trial: trial.value)
    first = next((f"; trial {t.number}, the values before, {t.value:.5f}" for t in complete if t.user_attrs.get("own")), "")
    chosen = with_values(experiment, space, best.params)
    score = {"monitor": f"trial {best.number} of {len(trials)} has {best.value:.5f} on the validation part{first}"}
    chosen = dataclasses.replace(chosen, reasons={**chosen.reasons, **score})
    chosen.save(study.folder / BEST)
    before, after, importance = values_of(experiment, space), values_of(chosen, space), importances(study.study)
    values = [
        {"value": key, "before": before[key], "best": after[key], "searched": str(space[key]), "importance": importance.get(key)}
        for key in space
    ]  # fmt: skip
    tuning = Tuning(study.folder, chosen, best.number, _table(trials), values)
    write(study.folder / TRIALS, tuning.trials.write_csv())
    title = f"Tuning of {experiment.model['type']} on {log.directory.name}"
    write(study.folder / PAGE, tuning_page(title, tuning.trials.to_dicts(), best.number, values, space))
    run_files.write_listing(study.folder, run_files.STUDY, {"best_trial": best.number}, (SETTINGS, BEST, TRIALS, PAGE))
    return tuning


def _text(value: Any) -> str:
    """A value with three digits, for a column of values of all kinds."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(trials: Sequence[Any]) -> pl.DataFrame:
    import polars as pl

    states = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running", "WAITING": "waiting"}
    names = ("auc", "logloss", "ne", "epochs", "seconds")
    rows = [
        {"trial": trial.number, "state": states.get(trial.state.name, "lost" if is_lost(trial) else "failed"),
         "score": trial.value, **{name: trial.user_attrs.get(name) for name in names},
         **trial.params, "error": trial.user_attrs.get("error")}
        for trial in trials
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)

"""A training run: an experiment and processed data become a trained, scored and saved model."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_dlrm.backend.private_keras import without_tensorflow
from keras_dlrm.files import ownership
from keras_dlrm.files.checksums import KERAS, check_archive, content_digest
from keras_dlrm.files.durable import check_writable, clean, whole, write
from keras_dlrm.files.marker import MARKER
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.differences import difference, shown
from keras_dlrm.training import run_files
from keras_dlrm.training.analysis import affordable, analyze
from keras_dlrm.training.averaging import Averaging
from keras_dlrm.training.baselines import beside
from keras_dlrm.training.by_label import OneLabel, logs_by_label, part_scores
from keras_dlrm.training.calibrating import calibrate_file
from keras_dlrm.training.callbacks import BestModel, Resume, TimeBudget, TrainingProgress, predictions, scoring_batch
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.page import page
from keras_dlrm.training.report import learning_curves_png
from keras_dlrm.training.report_columns import check_columns

_SAMPLED = 1024  # rows


def train(
    experiment: Experiment, data: Any, output: str | Path, resume: bool = False, overwrite: bool = False, tensorboard: bool = False,
    console: Console | None = None, slice_by: Sequence[str] | None = None, group_by: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, keep the model that is best on the validation part, score the test part once.

    Writes into `output`: `model.keras` (the best model), `result.json`, `report.html` (curves, scores by slice, importance of
    columns), its figures in `report.json`, `report.png` (learning curves and a reliability diagram),
    `experiment.yaml` (with the values that were used, such as widths that the experiment leaves to the model), `predictions.npy`
    (test part, file order) and, while training, checkpoints in `resume`.

    Args:
        experiment: What to train.
        data: A `ClickLog` of `kd.data.open`.
        output: Folder; new or empty unless `resume` or `overwrite`. The data may be in it, in `data`.
        resume: Whether to continue a run that was interrupted; a new run starts where there is none.
        overwrite: Whether to delete an earlier run at `output`, one that nobody has moved or put anything else into.
        tensorboard: Whether to write TensorBoard logs to `output/tensorboard`.
        console: Where progress is shown; nowhere by default.
        slice_by: Columns whose values are scored one by one in the report; `None`: the three most important ones.
        group_by: Column, such as the user, within whose values the report takes the AUC.

    Returns:
        The content of `result.json`: `test` and `valid` scores, `history` by epoch, `parameters`, `seconds`,
        `samples_per_s`, `ended_by` (`"patience"`, `"epochs"` or `"time budget"`), `shifts` of logits by label (see
        `Experiment.calibrate`), what `beside` says of the baselines, and for
        a planted log `best` and `distance` to it.

    Raises:
        FileExistsError: `output` has content that may not be deleted.
        OSError: `output` cannot be written to.
        RuntimeError: another run is training in `output`.
        ValueError: `output` is of another experiment or of other data (more epochs are allowed), the data lacks rows, or the
            experiment cannot be built; `output` is then as it was.
    """
    output, console = Path(output), console or Console(quiet=True)
    with one_run(output), without_tensorflow():
        check_columns(data.schema, slice_by, group_by)
        fingerprint = check_parts(data)
        _check_folder(output, resume, overwrite)
        keras.utils.set_random_seed(experiment.seed)
        part = data.split("train")
        if not len(part):
            raise ValueError(f"{data.directory}: the train part is empty.")
        valid = data.split("valid") if "valid" in data.splits and len(data.split("valid")) else None
        model = experiment.build(data.schema)
        experiment = experiment.resolved(model)
        if resume and run_files.besides_log(output):
            _check_same_run(experiment, fingerprint, output)
            if (output / run_files.RESULT).exists():
                return run_files.read_listing(output, run_files.RESULT)
        model.make_room(part.dataset(experiment.batch_size))
        # Only now, when everything that was asked for is known to work: an earlier run is deleted here.
        _prepare(experiment, fingerprint, output, overwrite)
        batches = -(-len(part) // experiment.batch_size)
        rules = experiment.monitor, experiment.patience, experiment.lr_factor
        averaging = Averaging(experiment.averaging) if experiment.averaging else None
        best = BestModel(valid, output / run_files.MODEL, scoring_batch(model, experiment.batch_size), *rules, averaging)
        budget = TimeBudget(experiment.time_budget)
        state = Resume(output / run_files.STATE, experiment.checkpoint_steps, batches, [best, budget], averaging)
        if resume and state.restore(model, part.take(slice(0, 2))):
            console.print(f"resuming at epoch {state.epoch + 1}, batch {state.batch} of {batches}", highlight=False)
        # One epoch at least is scored, however little of it there is time for.
        if state.epoch < experiment.epochs and not best.stopped and not (best.history and budget.used_up):
            bar = TrainingProgress(console, experiment.epochs, batches, experiment.batch_size, state.batch)
            # The order matters: scores first, then what shows them, then what saves them.
            callbacks: list[Any] = [*([] if averaging is None else [averaging]), best, bar, budget, state]
            if tensorboard:
                callbacks.append(keras.callbacks.TensorBoard(str(output / "tensorboard")))
            place = {"start_epoch": state.epoch, "start_batch": state.batch}
            dataset = part.dataset(experiment.batch_size, shuffle=True, seed=experiment.seed, **place)
            model.fit(dataset, initial_epoch=state.epoch, epochs=experiment.epochs, verbose=0, callbacks=callbacks)
        trained = min(state.trained * experiment.batch_size, len(part) * len(best.history["loss"]))
        ended_by = "patience" if best.stopped else "epochs"
        if budget.used_up and not best.stopped and state.trained < batches * experiment.epochs:
            ended_by = "time budget"
            console.print(f"the time budget of {experiment.time_budget:g} s is used up; the best so far is kept", highlight=False)
        with console.status("scoring the test part and writing the report"):
            result = _finish(experiment, data, output, best, trained, ended_by, slice_by, group_by)
        state.clear()
        clean(output / run_files.MODEL)
        return result


@contextlib.contextmanager
def one_run(output: str | Path) -> Iterator[None]:
    """While this context is open, no other process trains, compares or tunes in a folder; the lock is alongside it.

    `OSError` where it is not a folder that can be written to, `RuntimeError` where another process works there.
    """
    place = Path(os.path.realpath(output))
    if not place.name or (place.exists() and not place.is_dir()):
        what = "no folder" if place.name else "the root of the file system"
        raise FileExistsError(f"{output} is {what}; give the name of a folder of its own.")
    taken = f"another run is working in {output}; wait until it has ended, or give another folder."
    check_writable(place if place.is_dir() else place.parent)
    with ownership.held(place.with_name(f".{place.name}.running"), taken):
        yield


def check_parts(data: Any) -> dict[str, Any]:
    """Fingerprint of a run's data for its folder; an error where a part cannot be scored."""
    digest = hashlib.sha256(data.schema.to_json().encode())
    for name in data.splits:
        every = np.asarray(data.split(name).labels)
        digest.update(name.encode() + every.tobytes())
        columns = every.reshape(len(every), -1).T
        for label, column in zip(data.schema.labels, columns, strict=True) if name != "train" and len(every) else ():
            labels = column[~np.isnan(column)]
            if len(np.unique(labels)) > 1:
                continue
            which = "labels" if len(columns) == 1 else f"labels {label!r}"
            fault = f"no row of the {name} part has a label {label!r}"
            if len(labels):
                fault = f"all {len(labels)} {which} of the {name} part are {labels[0]:.0f}, so it has no AUC"
            how = "split=… of kd.train, --fractions of keras-dlrm preprocess"
            raise ValueError(f"{data.directory}: {fault}; cut the log so that both occur, or leave the part out ({how}).")
    return {**log_identity(data), "sha256": digest.hexdigest()}


def log_identity(data: Any) -> dict[str, Any]:
    """JSON values that tell a log from others: its place, its schema, a digest of the rows of each part."""
    rows = {name: _rows_digest(data, name) for name in data.splits}
    return {"directory": str(data.directory), "schema": data.schema.to_dict(), "rows": rows}


def check_same_log(who: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`ValueError`, which begins with `who`, where the log that `data.json` tells of has another schema or other rows now."""
    if "schema" in saved:
        check_same(who, Schema.from_dict(saved["schema"]), Schema.from_dict(now["schema"]), scores=True)
    if "sha256" in now and saved["sha256"] != now["sha256"]:
        raise ValueError(f"{who}; give another folder.")
    for name, rows in saved.get("rows", {}).items():
        if rows != now["rows"].get(name):
            fix = "give another folder, or the data as they were"
            raise ValueError(f"{who}: the {name} part has other rows now; {fix}.")


def _rows_digest(data: Any, name: str) -> str:
    """Digest that tells a part's rows from others: of its arrays' checksums; of a log without them, of some of its rows."""
    listed = getattr(data, "manifest", {}).get("files", {})
    arrays = {file: entry["sha256"] for file, entry in listed.items() if file.startswith(f"{name}/")}
    if arrays:
        return content_digest(arrays)
    part = data.split(name)
    digest = hashlib.sha256(str(len(part)).encode())
    batch, _ = part.take(np.unique(np.linspace(0, max(len(part) - 1, 0), min(_SAMPLED, len(part)), dtype=np.int64)))
    for key in sorted(batch):
        digest.update(key.encode() + np.ascontiguousarray(batch[key]).tobytes())
    return digest.hexdigest()


def _check_folder(output: Path, resume: bool, overwrite: bool) -> None:
    """An error where `output` is not to be written to, whatever run is in it. Changes nothing."""
    if resume and overwrite:
        raise ValueError("train: resume and overwrite are mutually exclusive.")
    if not run_files.besides_log(output):
        return
    if overwrite:
        ownership.check(output, ownership.identity("run", output), "a run")
    elif not resume:
        raise FileExistsError(f"{output} has content; resume it, overwrite it, or give another folder.")


def _check_same_run(experiment: Experiment, fingerprint: dict[str, Any], output: Path) -> None:
    """An error where the run in `output` is another one, or its files are damaged."""
    file = output / run_files.EXPERIMENT
    data: dict[str, Any] = {}
    if (output / run_files.DATA).is_file():
        data = run_files.read_listing(output, run_files.DATA, run_files.EXPERIMENT)
    elif file.is_file() and (output / MARKER).is_file() and not (output / run_files.PLACE).exists():
        data = fingerprint  # killed before it began
    if not file.is_file() or not data:
        raise ValueError(f"{output} is not a run; give the folder of one, or another folder.")
    if (output / run_files.MODEL).is_file() and not (output / run_files.RESULT).exists():
        check_archive(output / run_files.MODEL, KERAS)  # the best so far, which may stay the best
    _check_experiment(Experiment.load(file), experiment, output)
    check_same_log(f"{output} is a run on other data than {fingerprint['directory']}", data, fingerprint)


def _check_experiment(old: Experiment, new: Experiment, output: Path) -> None:
    """An error where a run is of another experiment. What does not change what was trained so far may differ."""
    free: dict[str, Any] = {"checkpoint_steps": new.checkpoint_steps}
    hosts = [(model.get("embedding_options") or {}).get("host") for model in (old.model, new.model)]
    if all(hosts):  # where rows are, and how many are on the device
        free["model"] = {**old.model, "embedding_options": {**old.model["embedding_options"], "host": hosts[1]}}
    if not (output / run_files.RESULT).exists():
        free |= {"epochs": max(old.epochs, new.epochs), "time_budget": new.time_budget}
    first = difference(dataclasses.replace(old, **free).to_dict(), new.to_dict())
    if first is None:
        return
    place, saved, own = first
    message = f"{output} is a run of another experiment: {place} is {shown(saved)} there, {shown(own)} now"
    if place == "time_budget" or (place == "epochs" and own > saved):
        gone = "what it would resume from was deleted with its last epoch"
        raise ValueError(f"{message}, and it has ended: {gone}. Give another folder.")
    allowed = "another time budget and more epochs are allowed"
    raise ValueError(f"{message}. Resume it with its own options ({allowed}), or give another folder.")


def _prepare(experiment: Experiment, fingerprint: dict[str, Any], output: Path, overwrite: bool) -> None:
    owner = ownership.identity("run", output)
    if overwrite and run_files.besides_log(output):
        with ownership.hold(output):
            ownership.check(output, owner, "a run")
            ownership.clear(output, owner, "a run", keep=(run_files.LOG,))
    output.mkdir(parents=True, exist_ok=True)
    if {path.name for path in run_files.besides_log(output)} <= {MARKER}:
        os.close(ownership.mark(output, owner, run_files.FILES))
    experiment.save(output / run_files.EXPERIMENT)
    run_files.write_listing(output, run_files.DATA, fingerprint, (run_files.EXPERIMENT,))


def _reported(
    experiment: Experiment, data: Any, model: Any, name: str, probabilities: np.ndarray, result: dict[str, Any],
    more: tuple[Any, ...], drawn: Callable[..., None], title: str,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The result with what stands beside it, and figures of a report; of several labels both by label, and a picture of the first.

    Args:
        name, probabilities: The part, and the predictions for it.
        more: Further arguments of `analyze`.
        drawn: Draws the picture.
    """
    results: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for label, log, rows in logs_by_label(data, name):
        part, own = log.split(name), probabilities[rows]
        if not results:
            named = f"{title}: {label}" if label else title
            drawn(np.asarray(part.labels), own, title=named, weights=part.sample_weights())
        results[label] = beside(experiment, log, name, own, result)
        figures[label] = analyze(OneLabel(model, label) if label else model, log, name, own, *more)
    if "" in results:
        return {**result, **results[""]}, figures[""]
    said = " ".join(f"{label}: {own['verdict']}" for label, own in results.items())
    return {**result, "labels": results, "verdict": said}, {"labels": figures}


def _finish(
    experiment: Experiment, data: Any, output: Path, best: BestModel, trained: int, ended_by: str,
    slice_by: Sequence[str] | None, group_by: str | None,
) -> dict[str, Any]:  # fmt: skip
    model = keras.saving.load_model(output / run_files.MODEL)
    shifts = {}
    # Where there is no test part, the validation part is what the result is about.
    if experiment.calibrate and all(name in data.splits and len(data.split(name)) for name in ("valid", "test")):
        place = output / run_files.MODEL, output / run_files.SHIFTS
        shifts = calibrate_file(*place, model, data.split("valid"), best.batch_size, experiment.loss == "esmm")
    tables = sum(t.size for t in model.embedding_tables().values())
    epochs = len(best.history.get("loss", []))
    result: dict[str, Any] = {
        "model": experiment.model["type"], "backend": keras.backend.backend(), "seed": experiment.seed,
        "parameters": {"tables": int(tables), "dense": int(sum(np.prod(v.shape) for v in model.weights) - tables)},
        "rows": {name: len(data.split(name)) for name in data.splits},
        "epochs": epochs, "best_epoch": best.best_epoch + 1, "seconds": round(best.seconds, 2),
        "samples_per_s": round(trained / max(best.seconds, 1e-9)), "ended_by": ended_by, "history": best.history,
        "shifts": shifts,
    }  # fmt: skip
    plotted: tuple[str, np.ndarray] | None = None
    for name in ("valid", "test"):
        if name in data.splits and len(data.split(name)):
            part = data.split(name)
            probabilities = predictions(model, part, best.batch_size)
            result[name] = {k: float(v) for k, v in part_scores(part, probabilities).items()}
            plotted = name, probabilities
            if name == "test":
                with whole(output / run_files.PREDICTIONS) as written:
                    np.save(written, probabilities.astype(np.float32))
    if data.best is not None and "test" in result:
        # What the true probabilities reach on the labels that were drawn: the luck of the draw is shared.
        result["best"] = {k: data.best[f"drawn_{k}"] for k in ("auc", "logloss")}
        result["distance"] = {k: result["best"][k] - result["test"][k] for k in ("auc", "logloss")}
    result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S")
    if plotted is not None:
        own = data.directory == (output / run_files.LOG).resolve()  # all of these are called alike
        title = f"{experiment.model['type']} on {output.name if own else data.directory.name}"
        shuffled = affordable(data.schema, trained)
        drawn = functools.partial(learning_curves_png, best.history, path=output / run_files.REPORT)
        more = best.batch_size, slice_by, group_by, experiment.seed, shuffled
        result, figures = _reported(experiment, data, model, *plotted, result, more, drawn, title)
        write(output / run_files.FIGURES, json.dumps(figures, indent=2))
        write(output / run_files.PAGE, page(result, figures, title))
    listed = (run_files.MODEL, run_files.PREDICTIONS, run_files.REPORT, run_files.PAGE, run_files.FIGURES)
    run_files.write_listing(output, run_files.RESULT, result, (*listed, run_files.EXPERIMENT, run_files.DATA))
    (output / run_files.SHIFTS).unlink(missing_ok=True)
    return result

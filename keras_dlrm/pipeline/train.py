"""`kd.train`: a table to a trained and scored model, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_dlrm.data import ClickLog, CsvDialect
from keras_dlrm.data import open as open_log
from keras_dlrm.data.packed.format import MANIFEST
from keras_dlrm.data.tables.files import Inputs
from keras_dlrm.layers.task_head import TaskOptions
from keras_dlrm.pipeline.prepare import prepare
from keras_dlrm.pipeline.run import Run
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import shown
from keras_dlrm.support.quiet import quiet_imports
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.model_types import check_arguments, type_name
from keras_dlrm.training.recipe import recipe
from keras_dlrm.training.report_columns import check_columns
from keras_dlrm.training.run import train as train_experiment
from keras_dlrm.training.run_files import stamped


def train(
    data: Inputs | ClickLog, label: str | Sequence[str] | None = None, model: str | type | None = None, *,
    schema: Schema | str | os.PathLike[str] | None = None, split: Mapping[str, float] | None = None,
    split_by: str | None = None, csv: CsvDialect | None = None,
    experiment: Experiment | str | os.PathLike[str] | None = None, settings: Mapping[str, Any] | None = None,
    time_budget: float | None = None, slice_by: Sequence[str] | None = None, group_by: str | None = None,
    output: str | os.PathLike[str] | None = None, verbose: bool = True,
) -> Run:  # fmt: skip
    """Infer a schema, preprocess, train until the validation part stops improving, keep the best model, score the test part.

    The same call with the same `output` resumes where it was stopped, and opens the run if it has ended.

    Args:
        data: A frame (pandas, Polars, Arrow, or a mapping of named columns); a path, folder or pattern of `.parquet`, `.csv`
            and `.tsv` files; or a processed log: a `ClickLog`, or its directory.
        label: Column of clicks, 0 or 1, or a list of several such columns; not needed with a schema or a processed log.
        model: Name of a model of `kd.models`, such as `"DCNv2"`, or a `ClickModel` of one's own: the class, or
            `"module:Class"`. `"DLRM"` by default, or the experiment's.
        schema: A `Schema` or its file, in place of `kd.Schema.infer`.
        split: Shares of the rows by part; `{"train": 0.8, "valid": 0.1, "test": 0.1}` by default.
        split_by: Column of times, the earliest rows into the training part, or `"random"`; by default the time that
            `kd.Schema.infer` finds in the table, or else `"random"`.
        csv: Form of text files that are not as usual.
        experiment: An `Experiment` or its YAML file, in place of the one that follows from the log (`recipe`).
        settings: Single values of the experiment, such as `{"seed": 1, "epochs": 3, "model.dropout": 0.1}`. A value may be a
            Keras layer, such as `"model.interaction"`, or a head of `kd.tasks`, such as `"model.tasks"`.
        time_budget: Seconds of training after which it stops, and the best so far is kept.
        slice_by: Columns whose values are scored, too, in the report.
        group_by: Column within each value of which the AUC is taken, too, such as the user.
        output: Folder of the run, with the processed log in `data`; `runs/<model>-<time>` by default.
        verbose: Whether to tell on standard error what was found in the table, and the scores of each epoch.

    Returns:
        A `Run`, with `predict`, `report`, `export`, `model`, `preprocessor`, `log` and `result`.

    Raises:
        FileNotFoundError, KeyError: there is no such file or column.
        FileExistsError: `output` is a file, or has content that is not a run's.
        TypeError: an argument is of another type.
        ValueError: labels are missing, all equal, or neither 0 nor 1; there are too few rows; no column can be used; `output`
            is of other data or another experiment.

    Example:

    >>> import numpy as np
    >>> r = np.random.default_rng(0)
    >>> log = {"price": r.exponential(9, 2000), "user": r.integers(0, 20, 2000), "click": r.integers(0, 2, 2000)}
    >>> run = kd.train(log, label="click", settings={"epochs": 1}, verbose=False)
    >>> run.predict({"price": [3.5, None], "user": [7, 99]}).dtype
    dtype('float32')
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise TypeError(f'train: settings={shown(settings)} must be a mapping, such as {{"epochs": 3}}.')
    if schema is not None and not isinstance(schema, (Schema, str, os.PathLike)):
        raise TypeError(f"train: schema={shown(schema)} must be a Schema or its file; see kd.Schema.from_dict.")
    if output is not None and not isinstance(output, (str, os.PathLike)):
        raise TypeError(f"train: output={shown(output)} must be the path of a folder.")
    if model is not None and experiment is not None:
        raise ValueError("train: give either model=… or experiment=…, which names its model.")
    if isinstance(experiment, (str, os.PathLike)):
        experiment = Experiment.load(Path(experiment))
    if isinstance(slice_by, str):
        raise TypeError(f"train: slice_by={slice_by!r} must be a list of columns; give [{slice_by!r}].")
    settings = {**(settings or {}), **({} if time_budget is None else {"time_budget": time_budget})}
    kind = type_name(model or "DLRM")
    # A wrong argument is told before the data are read.
    changed = (experiment or Experiment({"type": kind})).override(_plain(settings))
    check_arguments(changed.model)
    place = stamped(changed.model["type"].rpartition(":")[2].lower()) if output is None else Path(output)
    console = Console(stderr=True, quiet=not verbose, force_jupyter=False)
    if isinstance(data, (str, os.PathLike)) and (Path(data) / MANIFEST).is_file():
        data = open_log(data)
    if isinstance(data, ClickLog):
        for name, value in (("label", label), ("schema", schema), ("split", split), ("split_by", split_by), ("csv", csv)):
            if value is not None:
                raise ValueError(f"train: {name}={shown(value)} is for a table; the log was preprocessed before. Leave it out.")
        log = data
    else:
        log = prepare(data, place, label, schema, split, split_by, csv, console)
    if experiment is None:
        changed = recipe(log, kind).override(_plain(settings))
    check_columns(log.schema, slice_by or (), group_by)
    with quiet_imports():  # torch imports TensorFlow where it is installed
        train_experiment(changed, log, place, resume=True, console=console, slice_by=slice_by, group_by=group_by)
    return Run(place)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with Keras layers and heads as YAML can hold them."""
    return {
        key: keras.saving.serialize_keras_object(value) if isinstance(value, keras.layers.Layer)
        else value.config() if isinstance(value, TaskOptions) else value
        for key, value in settings.items()
    }  # fmt: skip

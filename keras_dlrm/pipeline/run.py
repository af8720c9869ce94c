"""`Run`: a trained model with its preprocessor, its log and its scores, in a folder."""

from __future__ import annotations

import functools
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm import export, scoring
from keras_dlrm.backend.private_keras import without_tensorflow
from keras_dlrm.data import ClickLog
from keras_dlrm.data import open as open_log
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.tables.files import Inputs
from keras_dlrm.files.checksums import read_json
from keras_dlrm.files.paths import as_typed
from keras_dlrm.support.quiet import quiet_imports
from keras_dlrm.support.terminal import cell_text, print_table
from keras_dlrm.training import run_files
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.page import Report, picture
from keras_dlrm.training.plots import learning_curves, reliability_chart
from keras_dlrm.training.run import check_same_log, log_identity
from keras_dlrm.training.summary import summary

_ERROR = "give the folder of a run that has ended, as kd.train and keras-dlrm train write it"


class Run:
    """A run that has ended: what `kd.train` returns, and any folder of `keras-dlrm train`.

    A notebook shows its scores and curves, a terminal its scores.

    Args:
        directory: Folder of the run.

    Attributes:
        directory: Its absolute path.
        result: Content of `result.json`: scores of the parts, history by epoch, parameters, seconds.
        experiment: What was trained, with the reason for each value that followed from the log.

    Raises:
        FileNotFoundError: there is no such folder, or no run in it that has ended.
        ValueError: a file in it is damaged.

    Example:

    >>> import numpy as np
    >>> r = np.random.default_rng(0)
    >>> log = {"price": r.exponential(9, 2000), "user": r.integers(0, 20, 2000), "click": r.integers(0, 2, 2000)}
    >>> _ = kd.train(log, label="click", settings={"epochs": 1}, output="runs/first", verbose=False)
    >>> run = kd.Run("runs/first")
    >>> run.predict({"price": [3.5, None], "user": [7, 99]}).shape
    (2,)
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        if not (self.directory / run_files.RESULT).is_file():
            raise FileNotFoundError(f"{directory} is not a run that has ended; {_ERROR}.")
        self.result: dict[str, Any] = run_files.read_listing(self.directory, run_files.RESULT, run_files.EXPERIMENT)
        self.experiment = Experiment.load(self.directory / run_files.EXPERIMENT)

    @functools.cached_property
    def model(self) -> Any:
        """The model that is best on the validation part, compiled."""
        run_files.read_listing(self.directory, run_files.RESULT, run_files.MODEL)
        with quiet_imports(), without_tensorflow():
            return keras.saving.load_model(self.directory / run_files.MODEL)

    @functools.cached_property
    def log(self) -> ClickLog:
        """The processed log that was trained on; `ValueError` where another one is in its place."""
        data = run_files.read_listing(self.directory, run_files.DATA)
        own = self.directory / run_files.LOG
        place = own if own.is_dir() else Path(data["directory"])
        if not place.is_dir():
            raise FileNotFoundError(f"{self.directory} was trained on the log at {place}, which is gone; put it back.")
        log = open_log(place)
        check_same_log(f"{self.directory} is a run on other data than {place}", data, log_identity(log))
        return log

    @property
    def preprocessor(self) -> Preprocessor:
        """Raw columns to the model's inputs, as fitted on the training rows."""
        return self.log.preprocessor

    def predict(self, rows: Inputs) -> np.ndarray:
        """p(click) of raw rows, as `keras-dlrm predict` gives it. Labels are not needed, and other columns not looked at.

        Args:
            rows: A frame (pandas, Polars, Arrow, or a mapping of named columns), or a path, folder or pattern of files.

        Returns:
            float32 (B,), one probability for each of the B rows, in their order; of T labels (B, T).

        Raises:
            FileNotFoundError: there are no such files.
            KeyError: a column is missing.
            ValueError, TypeError: a value cannot be used; the message names row and column.
        """
        with quiet_imports():
            return scoring.predict_rows(self.model, rows, preprocessor=self.preprocessor)

    def report(self) -> Report:
        """The path of `report.html`: curves, reliability, slices, importance of columns. A notebook shows the page."""
        path = self.directory / run_files.PAGE
        if not path.is_file():
            raise FileNotFoundError(f"{self.directory} has no report: its log has neither validation nor test rows.")
        return Report(path)

    def export(self, directory: str | os.PathLike[str], default: str = "raw", **options: Any) -> Path:
        """Write `directory/<version>/`, a SavedModel that takes raw rows: its preprocessor is inside.

        Args:
            directory: Folder of the versions, whose name TensorFlow Serving serves it under.
            default: The signature that a request without a name gets: `"raw"`, `"columns"` or `"packed"`.
            options: Others of `kd.export.savedmodel`, such as `tables="int8"`.

        Returns:
            The folder of the version.
        """
        options = {"metrics": self.result.get("test", {}), **options}
        return export.savedmodel(self.model, Path(directory), self.preprocessor, default=default, **options)

    def __repr__(self) -> str:
        title, rows = summary(self.result)
        text = io.StringIO()
        if rows:
            print_table(rows, title, text, width=80)
            text.write(f"\n{textwrap.fill(self.result.get('verdict', ''), 80)}\n")
        return f"{text.getvalue() or title}\nrun: {as_typed(self.directory)}"

    def _repr_html_(self) -> str:
        title, rows = summary(self.result)
        parts = [f"<p>{escape(title)}</p>", _table(rows), f"<p>{escape(self.result.get('verdict', ''))}</p>"]
        if (self.directory / run_files.FIGURES).is_file():
            figures = read_json(self.directory / run_files.FIGURES)
            of_labels = figures.get("labels", {"": figures})
            named = {f"reliability {label}".strip(): reliability_chart(own["reliability"]) for label, own in of_labels.items()}
            charts = {**learning_curves(self.result["history"]), **named}
            parts += [picture(svg, name) for name, svg in charts.items()]
            link = escape(as_typed(self.report().path))
            keys = "Gray: training part, blue: validation part."
            parts.append(f'<p>{keys} <a href="{link}">{link}</a> has more; <code>run.report()</code> shows it.</p>')
        return "".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores as HTML, in the style of whatever shows it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["".join(f"<th>{escape(name)}</th>" for name in columns)]
    for row in rows:
        lines.append("".join(f"<td>{escape(cell_text(row.get(name)))}</td>" for name in columns))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>" if rows else ""

"""Files of a run's folder, with checksums."""

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import staging_directory
from keras_dlrm.files.checksums import Done, read_sealed, sealed
from keras_dlrm.files.durable import sync, write
from keras_dlrm.files.inventory import check_contents, check_sizes, inventory
from keras_dlrm.files.marker import MARKER, check_marker, is_marker
from keras_dlrm.files.ownership import LOCK

MODEL, RESULT, REPORT, EXPERIMENT = "model.keras", "result.json", "report.png", "experiment.yaml"
DATA, PREDICTIONS = "data.json", "predictions.npy"
PAGE, FIGURES = "report.html", "report.json"
# The checkpoint of a run that has not ended, and the place in the data that it is of.
STATE, PLACE = "resume", "resume.npz"
# What a calibrated model's logits were shifted by, until the result says so.
SHIFTS = "shifts.json"
# Checksums of what a tuning wrote; its trials are in a database.
STUDY, DATABASE = "study.json", "study.db"
# The processed directory of a run that was given a table, and what a stopped job leaves of it.
LOG = "data"
_PARTIAL = staging_directory(Path(LOG)).name
# What a run writes; the rest of its folder is somebody else's.
FILES = (
    f"{LOG}/**", f"{_PARTIAL}/**", MODEL, f"{STATE}/**", PLACE, RESULT, REPORT, PAGE, FIGURES, EXPERIMENT, DATA, PREDICTIONS, LOCK,
    SHIFTS, ".writing-*/**",
    "tensorboard/train/events.out.tfevents.*", "tensorboard/validation/events.out.tfevents.*",
)  # fmt: skip


def besides_log(folder: Path) -> list[Path]:
    """Content of a run's folder besides the processed directory that it was given there, and what a kill left of a marker."""
    logs = [path for path in (folder / LOG, folder / _PARTIAL) if (path / MARKER).is_file()]
    content = folder.iterdir() if folder.is_dir() else ()
    return [path for path in content if path not in logs and (path.name == MARKER or not is_marker(path.name))]


def stamped(name: str) -> Path:
    """A new folder for a run that was given none: `runs/<name>-<time>`."""
    folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(path for i in itertools.count(1) if not (path := folder if i == 1 else Path(f"{folder}-{i}")).exists())


def write_listing(folder: Path, name: str, content: Mapping[str, Any], files: tuple[str, ...]) -> None:
    """Write `result.json` or `data.json` of a run's folder, or `study.json` of a tuning's, with an inventory of some files.

    Those of them that do not exist are left out.
    """
    existing = [file for file in files if (folder / file).is_file()]
    for file in existing:
        sync(folder / file)
    write(folder / name, json.dumps(sealed({**content, "files": inventory(folder, existing)}), indent=2))


def read_listing(folder: Path, name: str, *contents: str) -> dict[str, Any]:
    """Read what `write_listing` wrote, and compare `contents`, files that are about to be read, with their checksums."""
    check_marker(folder)
    content = read_sealed(folder / name, required=False)  # earlier releases wrote no checksums
    entries: Any = content.pop("files", {})
    chosen = {file: entries[file] for file in contents if file in entries}
    check_contents(check_sizes(folder, chosen, folder / name), chosen)
    return content


def read_predictions(folder: Path) -> np.ndarray:
    """p(click) of the test part, float32 (N,), as the run left them; `ValueError` names a damaged or missing file."""
    read_listing(folder, RESULT, PREDICTIONS)
    try:
        return np.load(folder / PREDICTIONS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder / PREDICTIONS} cannot be read ({error}); train again into another folder.") from error


def check_run(folder: Path, done: Done = lambda size: None) -> dict[str, Path]:
    """Compare all files of a run or tuning with their checksums, `done` being told the bytes: those that were, by name."""
    checked: dict[str, Path] = {}
    for name in (DATA, RESULT, STUDY):
        path = folder / name
        if path.is_file():
            content = read_sealed(path, required=False)
            if "files" not in content:
                continue  # of an earlier release
            places = check_sizes(folder, content["files"], path)
            check_contents(places, content["files"], done)
            checked |= {**places, name: path}
    return checked

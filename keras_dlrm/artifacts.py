"""Checks of everything that this package writes: `kd.verify` and `keras-dlrm verify`."""

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from keras_dlrm.files.checksums import KERAS, Done, check_archive, check_seal
from keras_dlrm.files.deltas import FILE as DELTA
from keras_dlrm.files.deltas import Delta, is_delta
from keras_dlrm.files.documents import read
from keras_dlrm.files.inventory import MANIFEST, check_version, files_below
from keras_dlrm.files.marker import MARKER, check_marker
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.plan import ShardingPlan
from keras_dlrm.training import run_files

SHA, CRC, PARSED, UNCHECKED = "SHA-256", "CRC-32", "is well formed", "has no checksum"
Progress = Callable[[int, int], None]
# How each file was checked, by file.
_Checks = dict[Path, str]


@dataclasses.dataclass(frozen=True)
class VerifiedFile:
    """A file that is as it was written.

    Args:
        name: Its name, relative to what was verified.
        bytes: Its size.
        check: `"SHA-256"`, `"CRC-32"`, `"is well formed"` or, of an earlier release, `"has no checksum"`.
    """

    name: str
    bytes: int
    check: str


@dataclasses.dataclass(frozen=True)
class Verified:
    """Files that `verify` read and found to be as they were written.

    Args:
        path: What was verified.
        kind: What it is, such as `"packed log"`.
        files: Its files.
    """

    path: Path
    kind: str
    files: tuple[VerifiedFile, ...]


def verify(path: str | os.PathLike[str], progress: Progress | None = None) -> Verified:
    """Read all of something that this package wrote, and compare it with its checksums.

    Args:
        path: A processed directory, a preprocessor's folder, an index, a run's folder, that of a tuning, a folder of checkpoints
            or one of them, a published version, a delta, or the folder of them, a folder of commits of `train_online`; a `.keras`,
            `.npz`, `.onnx` or `.tflite` file; a schema, plan or experiment (`.json`, `.yaml`).
        progress: Called as `progress(bytes_done, bytes_total)`, from several threads.

    Returns:
        The files that were checked, and how.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a file, which the message names, is damaged, missing or outside; `path` is nothing that is known here.

    Example:

    >>> kd.Schema(dense=["price"]).save("schema.yaml")
    >>> kd.verify("schema.yaml").files
    (VerifiedFile(name='schema.yaml', bytes=..., check='is well formed'),)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder or a file that this package wrote.")
    kind, check = _kind(path)
    files = [path / name for name in files_below(path) if (path / name).is_file()] if path.is_dir() else [path]
    total, progress = sum(file.stat().st_size for file in files), progress or (lambda done, total: None)
    checks = check(path, _counted(progress, total))
    progress(total, total)
    base = path if path.is_dir() else path.parent
    verified = (VerifiedFile(file.relative_to(base).as_posix(), file.stat().st_size, how) for file, how in checks.items())
    return Verified(path, kind, tuple(sorted(verified, key=lambda file: file.name)))


def _counted(progress: Progress, total: int) -> Done:
    """Adds up what several threads have read."""
    done, lock = 0, threading.Lock()

    def count(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            progress(min(done, total), total)

    return count


def _kind(path: Path) -> tuple[str, Callable[[Path, Done], _Checks]]:
    """The kind of a folder or file, by the names of its files: their content may be damaged."""
    if not path.is_dir():
        if path.is_file() and path.suffix in _FILES:
            return _FILES[path.suffix]
        raise ValueError(f"{path} is not a file that can be verified; give one of {', '.join(_FILES)}, or a folder.")
    for marker in path.rglob(MARKER):
        check_marker(marker.parent)
    for names, kind, check in _FOLDERS:
        if any(next(path.glob(name), None) is not None for name in names):
            return kind, check
    fix = "give a processed directory, a preprocessor, an index, a run, a tuning, checkpoints or a published model."
    raise ValueError(f"{path} is not a folder that this package wrote; {fix}")


def _log(path: Path, done: Done) -> _Checks:
    from keras_dlrm.data import open as open_log
    from keras_dlrm.data.packed import format as layout

    log = open_log(path, verify=False)
    places = layout.check_files(path, log.manifest, None if log.manifest["version"] == 1 else True, done)
    for name in log.splits:
        log.split(name)  # its files have the shapes of the schema
    _ = log.preprocessor  # its vocabularies can be read
    if places:
        return {**dict.fromkeys(places.values(), SHA), path / layout.MANIFEST: SHA}
    return {path / name: UNCHECKED for name in files_below(path)}


def _index(path: Path, done: Done) -> _Checks:
    from keras_dlrm.retrieval.content import FILE, check

    _, places = check(path, done)
    return dict.fromkeys([*places.values(), path / FILE], SHA)


def _preprocessor(path: Path, done: Done) -> _Checks:
    from keras_dlrm.data.preprocessor import artifact
    from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

    Preprocessor.load(path)
    entries = json.loads((path / artifact.FILE).read_text(encoding="utf-8"))
    how = SHA if entries["version"] == artifact.VERSION else UNCHECKED
    files = {path / e["file"]: SHA if "sha256" in e else UNCHECKED for e in entries["vocabularies"].values()}
    for file in files:
        done(file.stat().st_size)
    return {path / artifact.FILE: how, **files}


def _run(path: Path, done: Done) -> _Checks:
    checks = dict.fromkeys(run_files.check_run(path, done).values(), SHA)
    model, state, log = (path / name for name in (run_files.MODEL, run_files.STATE, run_files.LOG))
    if log.is_dir():
        checks |= _log(log, done)
    if model.is_file() and model not in checks:
        checks |= _archive(model, done)
    if any(state.glob("step_*")):
        checks |= _checkpoints(state, done)
    if (path / run_files.PLACE).is_file():
        check_archive(path / run_files.PLACE, ("place.npy",), done)
        checks[path / run_files.PLACE] = "CRC-32"
    return {**{path / name: UNCHECKED for name in files_below(path) if not name.startswith(".")}, **checks}


def _tuning(path: Path, done: Done) -> _Checks:
    checks = {path / name: UNCHECKED for name in files_below(path) if not name.startswith(".")}
    database = path / run_files.DATABASE
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as trials:
            (problem,) = trials.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise ValueError(f"{database} is damaged or missing ({problem}); tune again, into another folder.")
    done(database.stat().st_size)
    return {**checks, database: PARSED, **dict.fromkeys(run_files.check_run(path, done).values(), SHA)}


def _checkpoints(path: Path, done: Done) -> _Checks:
    from keras_dlrm.checkpoint.reading import verify as verify_checkpoints

    verify_checkpoints(path)
    files = [path / name for name in files_below(path) if not name.startswith(".")]
    for file in files:
        done(file.stat().st_size)
    return dict.fromkeys(files, "CRC-32C")


def _version(path: Path, done: Done) -> _Checks:
    if check_version(path, done) is None:
        raise ValueError(f"{path} has no {MANIFEST} of kd.export.savedmodel, so that there is nothing to compare it with.")
    return {path / name: SHA for name in files_below(path)}


def _versions(path: Path, done: Done) -> _Checks:
    checks: _Checks = {}
    for version in sorted(path.iterdir()):
        if version.name.isdecimal() and version.is_dir():
            checks |= _version(version, done)
        elif is_delta(version):
            checks |= _delta(version, done)
    return checks


def _delta(path: Path, done: Done) -> _Checks:
    return dict.fromkeys([*Delta(path, done).places.values(), path / DELTA], SHA)


def _commits(path: Path, done: Done) -> _Checks:
    from keras_dlrm.data.streaming.commits import MODEL, PREPROCESSOR, STATE, read_commit

    checks = _preprocessor(path / PREPROCESSOR, done) if (path / PREPROCESSOR).is_dir() else {}
    for commit in sorted(path.glob("commit-*")):
        how = SHA if "files" in read_commit(commit, done) else UNCHECKED
        checks |= {commit / name: how for name in (MODEL, STATE)}
    return checks


def _archive(path: Path, done: Done) -> _Checks:
    check_archive(path, KERAS if path.suffix == ".keras" else (), done)
    return {path: CRC}


def _onnx(path: Path, done: Done) -> _Checks:
    from keras_dlrm.export.onnx_graph.files import check

    files = check(path, done)
    if files is None:
        raise ValueError(f"{path} carries no checksum of kd.export.onnx: it is damaged, or another program wrote it.")
    return dict.fromkeys(files, SHA)


def _litert(path: Path, done: Done) -> _Checks:
    if not check_seal(path):
        raise ValueError(f"{path} carries no checksum of kd.export.litert: it is damaged, or another program wrote it.")
    done(path.stat().st_size)
    return {path: SHA}


def _description(path: Path, done: Done) -> _Checks:
    """A schema, a plan or an experiment: people write them by hand, so that they carry no checksum."""
    from keras_dlrm.training.experiment import Experiment

    try:
        content = read(path, "a schema, a plan or an experiment")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).removeprefix(f'{path}: ').rstrip('.')}); write it again.") from error
    keys = set(content) if isinstance(content, dict) else set()
    if {"dense", "categorical"} & keys:
        Schema.load(path)
    elif "tables" in keys and path.suffix == ".json":
        ShardingPlan.load(path)
    elif "model" in keys and path.suffix != ".json":
        Experiment.load(path)
    else:
        raise ValueError(f"{path} is not a schema, plan or experiment; of other descriptions give the folder that they are in.")
    done(path.stat().st_size)
    return {path: PARSED}


_FOLDERS: tuple[tuple[tuple[str, ...], str, Callable[[Path, Done], _Checks]], ...] = (
    (("saved_model.pb", "assets.extra/manifest.json"), "published version", _version),
    (("[0-9]*/saved_model.pb", "[0-9]*/assets.extra"), "published model", _versions),
    ((DELTA, "table_*_rows"), "delta", _delta),
    (("experiment.yaml", "result.json", "data.json"), "run", _run),
    (("tune.json", run_files.DATABASE, run_files.STUDY), "tuning", _tuning),
    (("schema.json", "train/*.npy", "valid/*.npy", "test/*.npy"), "packed log", _log),
    (("commit-*/state.json",), "commits of a stream", _commits),
    (("step_*/manifest.json", "dense.npz"), "checkpoints", _checkpoints),
    (("preprocessor.json", "vocabulary_*.parquet"), "preprocessor", _preprocessor),
    (("index.json", "codes.*.npy"), "index", _index),
)
_FILES: dict[str, tuple[str, Callable[[Path, Done], _Checks]]] = {
    ".keras": ("model", _archive),
    ".npz": ("arrays", _archive),
    ".onnx": ("ONNX model", _onnx),
    ".tflite": ("LiteRT model", _litert),
    **dict.fromkeys((".json", ".yaml", ".yml"), ("description", _description)),
}

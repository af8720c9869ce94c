"""`kd.export.delta`: what changed in a model since a published version; `kd.export.apply`: a version made of that."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.export import functional as own
from keras_dlrm.export.elsewhere import run
from keras_dlrm.export.requests import allowed_difference
from keras_dlrm.export.saved_model import manifest
from keras_dlrm.export.saved_model.savedmodel import CHECK, LOADED, checked_requests, described_rows
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.files import deltas
from keras_dlrm.files.checksums import CHECKSUM
from keras_dlrm.files.deltas import FULL, Delta, chain, is_delta, state_of, version_manifest
from keras_dlrm.files.durable import full_disk, sync, workspace
from keras_dlrm.files.inventory import check_version
from keras_dlrm.models.not_finite import require_finite
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.installs import require

_PROGRAM = "keras_dlrm.export.saved_model.delta_files"


def delta(model: Any, base: str | Path) -> Path:
    """Write `<number>.delta` alongside a published version: rows of tables whose stored bytes changed, all else whole.

    `keras-dlrm serve` applies it to the version that it serves, between two requests; TensorFlow Serving ignores it, and takes the
    version that `apply` makes of it. Its cost is one read of the tables here and there, part by part; the dense weights and the
    rows that changed are written. The answers are compared with the live model's before it is renamed: it is complete or absent.

    Args:
        model: The model of `base` after more training, from any backend.
        base: A version as `savedmodel` returns it, or an earlier delta.

    Returns:
        The path of the delta, which may be the next one's `base`. Its number is one more than the highest of the folder.

    Raises:
        FileNotFoundError: `base`, or a version that it builds on, does not exist.
        ValueError: the base is of another schema, structure or quantization, has fewer rows, left some out (`prune`) or has an
            index: write a full version.
        NotFinite: a weight is NaN or infinite.
        OSError, RuntimeError: a full disk; answers that differ from those of `model` by more than 1e-5 (0.02 in half precision).

    Example: see docs/serving.md, Fresh models.
    """
    base = Path(base)
    if own.is_functional("delta", model):
        raise ValueError(f"delta: a functional SparseModel has no deltas; {FULL}.")
    if not (is_delta(base) or base.name.isascii() and base.name.isdecimal()):
        fix = "give one that kd.export.savedmodel wrote, or a delta"
        raise ValueError(f"delta: base={str(base)!r} is not called as a version is; {fix}.")
    require("delta", "tensorflow")  # in another process, whatever this one runs on
    require_finite("delta", model)
    version, *earlier = chain(base)
    described = version_manifest(version)
    stored = _Stored(model, _kind(described))
    _check_base(model, stored, version, described)
    extra = version / "assets.extra" / "preprocessor"
    preprocessor = Preprocessor.load(extra) if extra.is_dir() else None
    kinds = {"user_columns": described["user_columns"], "default": described["signatures"]["serving_default"]}
    job = {**kinds, "preprocessor": preprocessor is not None, "stored": True}
    asked = checked_requests(model, preprocessor, [stored], None, job)
    for entry in asked.values():
        entry["rows"] = [sorted(rows) for rows in stored.looked_up.values()]
    checks = {"requests": asked, "allowed": allowed_difference(model), "loaded": LOADED}
    with workspace(base.parent / "version") as aside, tempfile.TemporaryDirectory() as name, full_disk(base.parent):
        written, work = aside / "delta", Path(name)
        written.mkdir()
        (written / deltas.REQUESTS).write_text(json.dumps(checks), encoding="utf-8")
        np.savez(written / deltas.WEIGHTS, **_weights(model))
        task = {"tables": [described_rows(stack) for stack in stored.stacks], **_places(version, earlier)}
        (work / "job.json").write_text(json.dumps(task), encoding="utf-8")
        rows = (part for stack in stored.stacks for part in stack.kept_rows())
        run("delta", ["-m", _PROGRAM, "write", str(work), str(written)], rows)
        changes = str(work / "changes.npz")
        run("delta", ["-P", str(CHECK), str(version), str(written / deltas.REQUESTS), changes])
        content = {
            "format": deltas.FORMAT, "version": deltas.VERSION, **own.named(model), "structure": described["structure"],
            "base": {"number": int(base.stem), "state": state_of(base)},
            "tables": json.loads((work / "tables.json").read_text(encoding="utf-8")),
        }  # fmt: skip
        manifest.write_sealed(written, Path(deltas.FILE), content)
        final = base.with_name(f"{manifest.next_version(base.parent)}{deltas.SUFFIX}")
        return _publish(written, final, any_version=True)


def apply(path: str | Path) -> Path:
    """Write the full version that a delta makes of its base, without the model: for stock TensorFlow Serving, and as a new base.

    Its answers are those of `savedmodel` when the delta was written, to the bit. It is compared with the answers that the live
    model gave then, and renamed when it is complete.

    Args:
        path: A delta, alongside the version and the deltas that it builds on.

    Returns:
        The path of the version, of the delta's number, in the same folder.

    Raises:
        FileExistsError: the version exists.
        FileNotFoundError: the delta, or what it builds on, does not exist.
        ValueError: `path` is no delta, a file is damaged, or the base is another one.
        OSError, RuntimeError: a full disk.

    Example:

    >>> kd.export.apply("served/1")
    Traceback (most recent call last):
    ValueError: apply: served/1 is not called as a delta is, such as served/2.delta; give a delta that kd.export.delta wrote.
    """
    path = Path(path)
    if not is_delta(path):
        example = path.with_name("2.delta")
        raise ValueError(f"apply: {path} is not called as a delta is, such as {example}; give a delta that kd.export.delta wrote.")
    require("apply", "tensorflow")
    final = path.with_name(path.stem)
    if final.exists():
        raise FileExistsError(f"apply: {final} exists; it is the version of this delta.")
    version, *changes = chain(path)
    described = check_version(version) or {}
    last = [Delta(each) for each in changes][-1]
    with workspace(path.parent / "version") as aside, tempfile.TemporaryDirectory() as name, full_disk(path.parent):
        written, work = aside / "model", Path(name)
        shutil.copytree(version, written, ignore=lambda folder, _: ["variables"] if Path(folder) == version else [])
        (written / manifest.MANIFEST).unlink()
        (work / "job.json").write_text(json.dumps(_places(version, changes)), encoding="utf-8")
        run("apply", ["-m", _PROGRAM, "apply", str(work), str(written)])
        run("apply", ["-P", str(CHECK), str(written), str(path / deltas.REQUESTS)])
        made = {"created", "git_revision", "packages", "files", "metrics", CHECKSUM}
        content = {key: value for key, value in described.items() if key not in made}
        manifest.write(written, {**content, "metrics": {}, "state": last.state})
        return _publish(written, final, any_version=False)


def _publish(written: Path, final: Path, any_version: bool) -> Path:
    for place in (*written.rglob("*"), written):
        sync(place)
    final = manifest.publish(written, final, any_version)
    sync(final.parent)
    return final


def _places(version: Path, changes: list[Path]) -> dict[str, Any]:
    return {"version": str(version.absolute()), "deltas": [str(path.absolute()) for path in changes]}


def _weights(model: Any) -> dict[str, Any]:
    """All that is in no table, by its name in the version: dense weights, and the ids of the rows of open vocabularies."""
    dense = [ops.convert_to_numpy(v.value) for v in model.weights if not is_table(v)]
    known = None if model.embeddings is None else model.embeddings.open
    maps = [] if known is None else [known.identities(table) for table in known.tables.values()]
    weights = {f"weights/{i}": value for i, value in enumerate(dense)}
    return {**weights, **{f"open/{i}/{j}": half for i, halves in enumerate(maps) for j, half in enumerate(halves)}}


class _Stored(StoredTables):
    """Stored tables that note which rows are looked up."""

    def __init__(self, model: Any, kind: str | None) -> None:
        super().__init__(model, kind)
        self.looked_up: dict[int, set[int]] = {id(stack.variable): set() for stack in self.stacks}

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows of a table."""
        self.looked_up[id(table)].update(row for row in np.unique(ops.convert_to_numpy(ids)).tolist() if row >= 0)
        return super().lookup(table, ids)


def _kind(described: dict[str, Any]) -> str | None:
    """Kind of all tables of a version; `None` where they have kinds of their own."""
    kinds = {entry["stored_as"] for entry in described.get("tables", {}).values()}
    return str(kinds.pop()) if len(kinds) == 1 else None


def _check_base(model: Any, stored: StoredTables, version: Path, described: dict[str, Any]) -> None:
    """`ValueError` where a delta of a model cannot be applied to a version, or what it stands on."""
    fault = _fault(model, stored, version, described)
    if fault is not None:
        raise ValueError(f"delta: {version} {fault}; {FULL}.")


def _fault(model: Any, stored: StoredTables, version: Path, described: dict[str, Any]) -> str | None:
    if "retrieval" in described:
        return "has an index of items, which a delta cannot change"
    if described.get("pruned_rows"):
        return f"left {described['pruned_rows']:,} rows out (prune), which may have been trained since"
    if "tables" not in described or "structure" not in described:
        return "does not say what it is made of: an earlier release wrote it, or it is no model of kd.models"
    schema = Schema.load(version / "assets.extra" / "schema.json")
    if model.schema.column_names != schema.column_names:
        return f"has another schema, of the columns {schema.column_names}, where the model has {model.schema.column_names}"
    kinds = {table.name: stack.kind for stack in stored.stacks for table in stack.stack.tables}
    shapes = {} if model.embeddings is None else model.embeddings.table_shapes
    tables = {name: {"rows": rows, "width": width, "stored_as": kinds[name]} for name, (rows, width) in shapes.items()}
    for name in sorted({*tables, *described["tables"]}):
        of_model, of_base = tables.get(name), described["tables"].get(name)
        if of_model != of_base:
            return f"has another table {name!r}: {_words(of_base)}, where the model has {_words(of_model)}"
    if described["structure"] != manifest.structure_of(model):
        return "has another structure than the model: vocabularies, statistics, layers or their options differ"
    return None


def _words(table: dict[str, Any] | None) -> str:
    return "none" if table is None else f"{table['rows']:,} rows × {table['width']} as {table['stored_as']}"

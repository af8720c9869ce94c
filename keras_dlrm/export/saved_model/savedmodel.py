"""`kd.export.savedmodel`: a trained model as a published version for TensorFlow Serving."""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.checkpoint.state import collections_of
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.export import functional as own
from keras_dlrm.export import signatures
from keras_dlrm.export.elsewhere import modules_of, run
from keras_dlrm.export.requests import allowed_difference, expected_probabilities, requests
from keras_dlrm.export.saved_model import manifest
from keras_dlrm.export.tables.stored_tables import StoredStack, StoredTables
from keras_dlrm.export.two_stage import TwoStages
from keras_dlrm.files.durable import sync, workspace
from keras_dlrm.models.not_finite import require_finite
from keras_dlrm.retrieval.index import Index
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.support.arguments import integer
from keras_dlrm.support.installs import require

# Tables travel in parts of about so many bytes, and of at most so many files.
_PART, _PARTS = 2**23, 512
# The check loads variables of at most so many bytes a second time, alongside the live model.
LOADED = 2**27
# What the file format may add to tables and weights.
_SHARE, _ROOM = 1.02, 2**17
CHECK = Path(__file__).with_name("check.py")


def savedmodel(
    model: Any, directory: str | Path, preprocessor: Any = None, version: int | None = None, *,
    user_columns: Sequence[str] = (), default: str = "packed", metrics: Mapping[str, float] | None = None,
    warm_up: bool | None = None, tables: str | None = None, prune: str | Mapping[str, Any] | None = None,
    index: Index | None = None, ranker: Any = None, k: int = 10, candidates: int = 500,
    blend: float = 0.0,
) -> Path:  # fmt: skip
    """Write `directory/<version>/`, a SavedModel of stock TensorFlow operations.

    Its signatures, each for any number B of rows:

    - `packed`: `dense` float32 (B, n_dense), `sparse` int64 (B, W), for a weighted schema `weights` float32 (B, W).
    - `columns`: the same, an input per column.
    - `raw`: an input per column as the log has them, through the preprocessor inside the graph.
    - `rank`: one row of the user's columns alongside B candidates.
    - `classify`, `regress`: serialized `tf.train.Example`s, with the columns of `raw`, or of `columns` without a preprocessor.
    - `serving_default`: what `default` says.
    - `retrieve`, with an `index`: the user's columns, raw where there is a preprocessor, and `exclude` (B, n), ids that a user
      must not get, -1 or "" for none, n ≥ 0. It gives `ids` (B, k), int64 or string, and `scores` float32 (B, k).
    - `recommend`, with a `ranker`, too: the same inputs. The ranker scores the index's best `candidates`, whose columns are in an
      item table. It gives `ids` (B, k) and `probabilities` float32 (B, k).

    The others give `probability` float32 (B, 1) (`regress`: `outputs`; `classify`: `classes` and `scores`). Of T labels that is
    (B, T), with an output (B, 1) for each besides, such as `probability_click`, and there is no `classify` and no `regress`. It
    loads without Keras and without this package. An id out of range is looked up as its column's OOV row, an unseen value likewise.

    A model of any backend is rebuilt under TensorFlow in another process, to which its tables are passed part by part. The
    version is compared with `model.predict` through every signature before it is renamed: it is complete or absent.

    A functional `SparseModel` gets one signature, `serving_default`, with its own inputs and outputs by name: of its `keras.Input`s
    (ids int64, all else float32); of its dict of outputs, or else of the layers that make them.

    Args:
        model: A model of `kd.models`, or a functional `SparseModel`, from any backend.
        directory: Folder of the versions; made if it does not exist.
        preprocessor: That of the training data: it becomes part of the graph, and is saved in `assets.extra`.
        version: Number of the version; one more than the highest there is by default.
        user_columns: Columns that are the same for all candidates of a `rank` request; without any there is no `rank`.
        default: `"packed"`, `"columns"` or `"raw"`: the signature that `serving_default` is.
        metrics: Figures that the manifest keeps, such as the test AUC.
        warm_up: Whether to write requests for TensorFlow Serving to replay; by default with tensorflow-serving-api.
        tables: `"float32"`, `"bfloat16"`, `"float16"`, `"int8"` or `"int4"`, see docs/onnx.md; their own dtype by default.
        prune: `"untrained"` leaves out rows that no training example had; or a mapping table name → bool (rows,), true for
            rows to leave out. Their ids are answered as unseen ones are.
        index: A `kd.retrieval.Index` that was built with this `TwoTower`; one of other weights is refused.
        ranker: A model whose columns are some of the `TwoTower`'s, and crosses of these, such as a `DLRM`.
        k: Items of an answer of `retrieve` and `recommend`.
        candidates: Items that the ranker scores for an answer.
        blend: Weight of the index's score in their order, as of `kd.retrieval.recommend`.

    Returns:
        The path of the version. `assets.extra/manifest.json` says what it is; `verify` checks it.

    Raises:
        FileExistsError: the version exists.
        NotADirectoryError: `directory` is a file.
        TypeError, ValueError: arguments that do not fit the model.
        NotFinite: a weight is NaN or infinite.
        ImportError: TensorFlow is not installed, or `warm_up=True` without tensorflow-serving-api.
        RuntimeError: a full disk; a written model that differs from `model` by more than 1e-5 (0.02 in half precision).

    Example: see docs/export.md.
    """
    functional = own.is_functional("savedmodel", model)
    if version is not None:
        version = integer("savedmodel", "version", version, 0, 2**63 - 1)
    scores = _scores(metrics)
    require("savedmodel", "tensorflow")  # in another process, whatever this one runs on
    require_finite("savedmodel", model)
    if functional:
        packed = default if default != "packed" else None
        options = {"preprocessor": preprocessor, "user_columns": user_columns, "default": packed, "tables": tables, "prune": prune}
        for name, value in {"warm_up": warm_up, "index": index, "ranker": ranker, **options}.items():
            if value:
                raise ValueError(f"savedmodel: {name}={value!r} is for the models of kd.models that have a schema; leave it out.")
    else:
        can_warm_up = importlib.util.find_spec("tensorflow_serving") is not None  # has the records' messages
        signatures.check(model.schema, preprocessor is not None, user_columns, default)
        if preprocessor is not None:
            check_same("savedmodel", model.schema, preprocessor.schema)
        if warm_up and not can_warm_up:
            raise ImportError("savedmodel: warm_up=True needs tensorflow-serving-api; pip install 'keras-dlrm[serving]'.")
        if ranker is not None and index is None:
            raise ValueError("savedmodel: ranker=… scores the candidates of an index; give index=…, too.")
        stages = None if index is None else TwoStages(index, ranker, k, candidates, blend)
        if stages is not None:
            stages.check(model)
        if ranker is not None:
            require_finite("savedmodel", ranker)
        stored = [StoredTables(each, tables, prune) for each in (model, ranker) if each is not None]
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"savedmodel: {directory} is a file; give the folder of the versions.")
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / str(manifest.next_version(directory) if version is None else version)
    if final.exists():
        raise FileExistsError(f"savedmodel: {final} exists; give another version, or none for the next one.")
    # Its name is not a number, so that a server that watches the folder does not take it for a version.
    with workspace(directory / "version") as aside:
        if functional:
            _write_functional(model, aside / "model")
            content = own.described(model)
        else:
            job = {
                "preprocessor": preprocessor is not None,
                "user_columns": list(user_columns),
                "default": default,
                "warm_up": can_warm_up if warm_up is None else bool(warm_up),
                "stored": tables is not None or prune is not None,
                "retrieval": stages and {"k": k, "candidates": candidates, "blend": blend, "signatures": stages.signatures},
            }
            _write(model, preprocessor, stored, stages, aside / "model", job)
            content = _described(model, stored, stages, job)
        manifest.write(aside / "model", {**content, "metrics": scores})
        # A version that is visible is also whole after a power failure.
        for place in (*(aside / "model").rglob("*"), aside / "model"):
            sync(place)
        final = manifest.publish(aside / "model", final, version is None)
        sync(directory)
    return final


def _scores(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Finite numbers by name, as JSON can have them."""
    scores = {}
    for name, value in (metrics or {}).items():
        try:
            scores[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"savedmodel: metrics[{name!r}]={value!r} must be a number.") from error
        if not np.isfinite(scores[str(name)]):
            raise ValueError(f"savedmodel: metrics[{name!r}]={value!r} must be a finite number; leave it out.")
    return scores


def _write(
    model: Any, preprocessor: Any, stored: list[StoredTables], stages: TwoStages | None, path: Path, job: Mapping[str, Any]
) -> None:
    """Write and check the SavedModel, with all that belongs to it but the manifest."""
    models = [model] if stages is None or stages.ranker is None else [model, stages.ranker]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights: dict[str, Any] = {
            f"w{i}": keras.ops.convert_to_numpy(v.value)
            for i, v in enumerate(v for each in models for v in each.weights if not is_table(v))
        }
        np.savez(folder / "weights.npz", **weights)
        maps = [each.embeddings.open for each in models if each.embeddings is not None and each.embeddings.open is not None]
        for i, each in enumerate(maps):
            np.savez(folder / f"open_{i}.npz", **each.state())
        if preprocessor is not None:
            preprocessor.save(folder / "preprocessor")
        if stages is not None:
            stages.index.save(folder / "index")
        tables, stacks = [], [stack for each in stored for stack in each.stacks]
        for i, stack in enumerate(stacks):
            if stack.pruned is not None:
                np.save(folder / f"map_{i}.npy", stack.row_map().astype(np.int32))
            tables.append([*described_rows(stack), stack.pruned is not None])
        rows = (part for stack in stacks for part in stack.kept_rows())
        job = {**job, "models": [keras.saving.serialize_keras_object(each) for each in models], "tables": tables}
        _rebuild(models, path, folder, job, checked_requests(model, preprocessor, stored, stages, job), LOADED, rows)
        index = sum(file.stat().st_size for file in (folder / "index").rglob("*")) if stages is not None else 0
    extra = path / "assets.extra"
    model.schema.save(extra / "schema.json")
    if preprocessor is not None:
        preprocessor.save(extra / "preprocessor")
    written = sum(file.stat().st_size for file in (path / "variables").iterdir())
    # Parquet's ids may be compressed, and the graph has a number for each besides.
    items = 0 if stages is None else 2 * index + 12 * len(stages.index)
    slots = sum(t.slots.rows for each in maps for t in each.tables.values())
    needed = sum(each.nbytes for each in stored) + 8 * slots + sum(values.nbytes for values in weights.values()) + items
    if written > _SHARE * needed + _ROOM:
        raise RuntimeError(f"savedmodel: the variables take {written:,} bytes for weights of {needed:,}; that is a defect here.")


def described_rows(stack: StoredStack) -> list[Any]:
    """Kept rows of a table, their width, the rows of a part on the way to another process, and their kind."""
    width = stack.stack.width
    return [stack.kept, width, part_rows(stack.kept, width), stack.kind]


def part_rows(rows: int, width: int) -> int:
    """Rows of a part of a table."""
    return max(_PART // (4 * width), -(-rows // _PARTS), 1)


def _write_functional(model: Any, path: Path) -> None:
    """Write and check the SavedModel of a functional model."""
    for layer in collections_of(model):
        layer.require_whole("savedmodel")
    batch, shapes = own.example(model), own.inputs(model)
    request = {
        "inputs": {name: {"dtype": shapes[name][1], "values": array.tolist()} for name, array in batch.items()},
        "expected": {name: array.tolist() for name, array in own.answers(model, batch).items()},
        "examples": False,
        "user_inputs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        _rebuild([model], path, Path(folder), {}, {"serving_default": request}, sys.maxsize)


def _rebuild(
    models: list[Any], path: Path, folder: Path, job: Mapping[str, Any], asked: Mapping[str, Any], loaded: int,
    rows: Iterable[np.ndarray] = (),
) -> None:  # fmt: skip
    """Do a job in a process where Keras runs on TensorFlow, and check what it wrote in another."""
    modules = sorted({name for model in models for name in modules_of("savedmodel", model)})
    (folder / "job.json").write_text(json.dumps({**job, "modules": modules}), encoding="utf-8")
    checks = {"requests": asked, "allowed": max(map(allowed_difference, models)), "loaded": loaded}
    (folder / "requests.json").write_text(json.dumps(checks), encoding="utf-8")
    run("savedmodel", ["-m", "keras_dlrm.export.saved_model.writing", str(folder), str(path)], rows)
    # -P: the modules alongside the program, such as `manifest`, stand for no others.
    run("savedmodel", ["-P", str(CHECK), str(path), str(folder / "requests.json")])


def checked_requests(
    model: Any, preprocessor: Any, stored: list[StoredTables], stages: TwoStages | None, job: Mapping[str, Any]
) -> dict[str, Any]:
    """Requests to the written model, with the answers that it should give; see `check.check`."""
    columns = signatures.model_columns(model.schema)
    kinds = signatures.signature_names(model.schema, job["preprocessor"], job["user_columns"], job["default"])
    own_requests = requests(model.schema, preprocessor, job["user_columns"], job["default"])
    asked = {
        name: {
            "inputs": inputs,
            "batches": [{key: values.tolist() for key, values in batch.items()}],
            "expected": _expected(model, batch, stored[0] if job["stored"] else None),
            "examples": kinds[name] in ("classify", "regress"),
            "user_inputs": [c.input for c in columns if kinds[name] == "rank" and c.name in job["user_columns"]],
        }
        for name, (inputs, batch) in own_requests.items()
    }
    if stages is not None:
        by_column = own_requests["columns" if preprocessor is None else "raw"]
        asked |= stages.requests(model, preprocessor, *by_column, stored if job["stored"] else None)
    return asked


def _expected(model: Any, batch: Mapping[str, np.ndarray], stored: StoredTables | None) -> Any:
    """Probabilities that a request should be answered with, or of several labels all outputs by name."""
    expected = expected_probabilities(model, batch, stored)
    outputs = signatures.named_probabilities(model.schema, expected)
    return expected.tolist() if len(outputs) == 1 else {name: values.tolist() for name, values in outputs.items()}


def _described(model: Any, stored: list[StoredTables], stages: TwoStages | None, job: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {table.name: stack.kind for stack in stored[0].stacks for table in stack.stack.tables}
    shapes = {} if model.embeddings is None else model.embeddings.table_shapes
    names = signatures.signature_names(model.schema, job["preprocessor"], job["user_columns"], job["default"])
    return {
        **own.named(model),
        "structure": manifest.structure_of(model),
        "tables": {n: {"rows": rows, "width": width, "stored_as": kinds[n]} for n, (rows, width) in shapes.items()},
        "pruned_rows": sum(each.pruned_rows for each in stored),
        "signatures": names if stages is None else {**names, **{name: name for name in stages.signatures}},
        "user_columns": job["user_columns"],
        **({"outputs": outputs} if (outputs := signatures.label_outputs(model.schema)) else {}),
        **({"retrieval": stages.described()} if stages is not None else {}),
        "inputs": {c.name: c.input for c in signatures.model_columns(model.schema)},
        "warm_up": job["warm_up"],
    }

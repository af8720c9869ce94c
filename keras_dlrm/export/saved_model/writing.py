"""Writer of a SavedModel, where Keras runs on TensorFlow: of a folder with the job, and rows on standard input."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.embeddings.whole_tables import stand_in_tables
from keras_dlrm.export import functional as own
from keras_dlrm.export.elsewhere import arguments, import_modules
from keras_dlrm.export.requests import example_batch
from keras_dlrm.export.saved_model.check import examples, feed
from keras_dlrm.export.saved_model.columns import ModelColumns, RawColumns, with_equal_rows
from keras_dlrm.export.saved_model.retrieving import IndexInGraph, of_one_side
from keras_dlrm.export.signatures import (
    EXAMPLES,
    model_columns,
    named_probabilities,
    packed_inputs,
    raw_columns,
    signature_names,
)
from keras_dlrm.export.tables.taped_tables import ServedTables, parts, replace_rows
from keras_dlrm.export.two_stage import EXCLUDE, user_inputs
from keras_dlrm.retrieval.content import load

_METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
# So TensorFlow calls a file that is too large, a disk that is full, and a folder that is not ours.
DISK = (tf.errors.OutOfRangeError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError)
Serve = Callable[[Mapping[str, Any]], Any]


def write(job: Mapping[str, Any], folder: Path, path: Path, rows: IO[bytes]) -> None:
    """Write the SavedModel that a job describes to `path`, which must not exist.

    The job has `models` (configurations of the model and perhaps of a ranker), `modules` (that define their classes),
    `preprocessor` (whether `folder` has one), `user_columns`, `default`, `tables` (of each the kept rows, the width, the rows of a
    part, the kind, and whether it has a map), `retrieval` (numbers of `retrieve` and `recommend`, or `None`), and whether to
    `warm_up`. The folder has `weights.npz`, all but the tables, `map_….npy` of the tables that have one, and maybe `preprocessor/`
    and `index/`, and `open_….npz`, the maps of open vocabularies; `rows` are the float32 rows of the tables, in order.
    """
    row_maps = [np.load(folder / f"map_{i}.npy") if mapped else None for i, (*_, mapped) in enumerate(job["tables"])]
    with stand_in_tables():
        models = [keras.saving.deserialize_keras_object(config) for config in job["models"]]
        stand_ins = [table for each in models if each.embeddings is not None for table in each.embeddings.tables]
        served = ServedTables(stand_ins, [kind for *_, kind, _ in job["tables"]], row_maps)
        with taped(_Recorder(stand_ins)):
            for each in models:
                each(example_batch(each.schema))  # makes its variables
    maps = [each.embeddings.open for each in models if each.embeddings is not None and each.embeddings.open is not None]
    for i, each in enumerate(maps):
        with np.load(folder / f"open_{i}.npz") as state:
            each.restore(state)
        for table in each.tables.values():  # in variables, as each signature would hold constants of its own
            table.constants = [tf.Variable(half, trainable=False, name="ids") for half in each.identities(table)]
    model = models[0]
    tables = {id(table) for table in stand_ins}
    weights = [v for each in models for v in each.weights if id(v) not in tables]
    with np.load(folder / "weights.npz") as saved:
        if len(saved.files) != len(weights):
            raise RuntimeError(f"savedmodel: the model has {len(saved.files)} dense weights, rebuilt {len(weights)}.")
        for i, weight in enumerate(weights):
            weight.assign(saved[f"w{i}"])
    module = _module(weights)
    module.tables = list(served.arrays.values())
    module.open = [table.constants for each in maps for table in each.tables.values()]

    schema = model.schema

    def probabilities(batch: Mapping[str, Any]) -> Any:
        with taped(served):
            return model(batch, training=False)

    def serve(batch: Mapping[str, Any]) -> dict[str, Any]:
        return named_probabilities(schema, probabilities(batch))

    known = module.columns = ModelColumns(schema, model_columns(schema))
    if job["preprocessor"]:
        preprocessor = Preprocessor.load(folder / "preprocessor")
        known = module.raw = RawColumns(preprocessor, raw_columns(preprocessor), folder)
    functions = {
        "packed": _function(lambda inputs: serve(with_equal_rows(inputs)), _specs(packed_inputs(schema))),
        "columns": _columns(module.columns, serve),
        "rank": _rank(known, serve, job["user_columns"]) if job["user_columns"] else None,
        "raw": _columns(known, serve),
        "classify": _examples(known, probabilities, _classes) if len(schema.labels) == 1 else None,
        "regress": _examples(known, probabilities, lambda p: {"outputs": p}) if len(schema.labels) == 1 else None,
    }
    names = signature_names(schema, job["preprocessor"], job["user_columns"], job["default"])
    if job["retrieval"]:
        module.retrieval = IndexInGraph(load(folder / "index"))
        functions |= _retrieval(module.retrieval, models, known, served, job["retrieval"])
        names |= {name: name for name in job["retrieval"]["signatures"]}
    tf.saved_model.save(module, str(path), signatures={name: functions[kind] for name, kind in names.items()})
    # TensorFlow Serving's Classify and Regress require names of their own; `tf.saved_model.save` calls all of them Predict.
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
    for name, kind in names.items():
        if kind in _METHODS:
            updater.replace_method_name(signature_key=name, method_name=_METHODS[kind], tags="serve")
    updater.save()
    replace_rows(path, parts(rows, job["tables"]))
    asked = json.loads((folder / "requests.json").read_text(encoding="utf-8"))
    for entry in asked["requests"].values():
        entry["rows"] = _looked_up(models, stand_ins, entry["batches"], row_maps)
    (folder / "requests.json").write_text(json.dumps(asked), encoding="utf-8")
    (path / "assets.extra").mkdir()
    if job["warm_up"]:
        _write_warmup(path, asked["requests"])


def _write_warmup(path: Path, requests: Mapping[str, Any]) -> None:
    """Write the requests of `check.check` as those that stock TensorFlow Serving replays, one record for each."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for name, entry in requests.items():
            log = PredictionLog()
            # TensorFlow Serving fills in the model's name.
            if entry["examples"]:
                kind = name if name in _METHODS else "predict"
                request = getattr(log, f"{kind}_log").request
                for message in examples(entry["inputs"]).numpy():
                    request.input.example_list.examples.append(tf.train.Example.FromString(message))
            else:
                request = log.predict_log.request
                for key, value in feed(entry).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            request.model_spec.signature_name = name
            writer.write(log.SerializeToString())


def write_functional(folder: Path, path: Path) -> None:
    """Write the SavedModel of the functional model in a folder, with one signature, of its own inputs and outputs by name."""
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    names, specs = own.output_names(model), _specs(own.inputs(model))

    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = model(keras.tree.pack_sequence_as(model.input, [inputs[name] for name in specs]), training=False)
        return dict(zip(names, keras.tree.flatten(outputs), strict=True))

    tf.saved_model.save(_module(model.weights), str(path), signatures={"serving_default": _function(serve, specs)})
    (path / "assets.extra").mkdir()


def _module(weights: Sequence[Any]) -> Any:
    """A module that holds the weights alone: Keras's own export would store each of them twice (keras #23553)."""
    module = tf.Module()
    module.weights = [v.value for v in weights]
    return module


class _Recorder:
    """A tape that notes which rows are looked up, and gives zeros for them."""

    every_table = True

    def __init__(self, tables: Sequence[Any]) -> None:
        self.rows: list[set[int]] = [set() for _ in tables]
        self._by_table = {id(table): rows for table, rows in zip(tables, self.rows, strict=True)}

    def lookup(self, table: Any, ids: Any) -> Any:
        """Zeros in place of the rows."""
        self._by_table[id(table)].update(row for row in np.unique(ids).tolist() if row >= 0)
        return tf.zeros([*ids.shape, table.shape[1]])


def _looked_up(
    models: Sequence[Any], tables: Sequence[Any], batches: Sequence[Mapping[str, Any]], maps: Sequence[np.ndarray | None]
) -> list[list[int]]:
    """Kept rows of each table that packed batches look up, one for each model or for the first ones."""
    recorder = _Recorder(tables)
    with taped(recorder):
        for model, batch in zip(models, batches, strict=False):
            dtypes = packed_inputs(model.schema)
            model({key: np.array(values, dtypes[key][1]) for key, values in batch.items()}, training=False)
    kept = [rows if m is None else {int(m[row]) for row in rows} - {-1} for rows, m in zip(recorder.rows, maps, strict=True)]
    return [sorted(rows) for rows in kept]


def _columns(columns: ModelColumns, serve: Serve) -> Any:
    return _function(lambda inputs: serve(columns.pack(columns.named(inputs))), columns.specs())


def _rank(columns: ModelColumns, serve: Serve, user: Sequence[str]) -> Any:
    """One row of the user's columns, and a row per candidate of the others."""
    specs = columns.specs(dict.fromkeys(user, 1))
    candidates = next(c.name for c in columns.columns if c.name not in user)

    def rank(inputs: Mapping[str, Any]) -> dict[str, Any]:
        by_name = columns.named(inputs)
        answer: dict[str, Any] = serve(columns.pack(by_name, user, tf.shape(by_name[candidates])[0]))
        return answer

    return _function(rank, specs)


def _retrieval(
    index: IndexInGraph, models: Sequence[Any], columns: ModelColumns, served: ServedTables, job: Mapping[str, Any]
) -> dict[str, Any]:
    """`retrieve` and, with a second model, `recommend`, of the user's columns and the ids to leave out."""
    model, *ranker = models
    names = user_inputs(model.schema, model.user_columns)
    inputs = {c.input for c in columns.columns if c.name in names}
    specs = {name: spec for name, spec in columns.specs().items() if name in inputs}
    specs[EXCLUDE] = tf.TensorSpec([None, None], index.id_type, EXCLUDE)

    def users(inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        batch = columns.pack(of_one_side(columns, names, inputs))
        with taped(served):
            return batch, model.user_vectors(batch)

    def probabilities(batch: Mapping[str, Any]) -> Any:
        with taped(served):
            return ranker[0](batch, training=False)

    def retrieve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return index.retrieve(users(inputs)[1], inputs[EXCLUDE], job["k"])

    def recommend(inputs: Mapping[str, Any]) -> dict[str, Any]:
        numbers = job["k"], job["candidates"], job["blend"]
        return index.recommend(*users(inputs), inputs[EXCLUDE], *numbers, probabilities, ranker[0].schema)

    functions = {"retrieve": retrieve, "recommend": recommend}
    return {name: _function(functions[name], specs) for name in job["signatures"]}


def _examples(columns: ModelColumns, serve: Serve, outputs: Callable[[Any], dict[str, Any]]) -> Any:
    specs = {EXAMPLES: tf.TensorSpec([None], tf.string, name=EXAMPLES)}
    return _function(lambda inputs: outputs(serve(columns.pack(columns.parse(inputs[EXAMPLES])))), specs)


def _classes(probability: Any) -> dict[str, Any]:
    names = tf.tile(tf.constant([["0", "1"]]), [tf.shape(probability)[0], 1])
    return {"classes": names, "scores": tf.concat([1.0 - probability, probability], axis=1)}


def _specs(inputs: Mapping[str, tuple[Any, str]]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in inputs.items()}


def _function(function: Callable[[Mapping[str, Any]], dict[str, Any]], specs: Mapping[str, Any]) -> Any:
    return tf.function(lambda **inputs: function(inputs), autograph=False).get_concrete_function(**specs)


def not_written(error: Exception) -> str:
    """The message where a disk takes no more."""
    reason = str(error).strip().splitlines()[0].split("}} ")[-1].split(" [Op:")[0]
    return f"not written ({reason}); see that the folder can be written to and has room."


def main(folder: str, path: str) -> None:
    """Do the job of a folder."""
    work, job = Path(folder).absolute(), json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))
    # TensorFlow takes brackets, stars and the like in a path for patterns.
    os.chdir(Path(path).parent)
    place = Path(Path(path).name)
    import_modules(job["modules"])
    try:
        if "models" in job:
            write(job, work, place, sys.stdin.buffer)
        else:
            write_functional(work, place)
    except (OSError, *DISK) as error:
        sys.exit(not_written(error))


if __name__ == "__main__":
    main(*arguments())

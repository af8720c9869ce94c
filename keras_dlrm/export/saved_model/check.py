"""Self-check of a written SavedModel, in a process without Keras or this package.

    python -P check.py MODEL REQUESTS.json [CHANGES.npz]

Exit code 1 and a sentence if it does not.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    for module in ("keras", "tf_keras", "keras_dlrm"):
        sys.modules[module] = None  # type: ignore[assignment]  # an import of it is an error

import numpy as np
import tensorflow as tf


def check(
    path: Path, requests: Mapping[str, Any], allowed: float, loaded: int, changes: Mapping[str, np.ndarray] | None = None
) -> None:
    """Ask each signature of a SavedModel, and compare; `RuntimeError` where it lacks one, or answers otherwise than `allowed`.

    A request has `inputs` by name as `{"dtype", "values"}`, `expected` probabilities (B, 1) or a mapping output → values, and
    `rows`, the row ids of each table that it looks up. Of variables of more bytes than `loaded` only these rows are loaded.
    `changes` are values in place of the written ones, by variable: of tables for these rows, ascending.
    """
    size = sum(file.stat().st_size for file in (path / "variables").iterdir())
    whole = size <= loaded and changes is None
    model = tf.saved_model.load(str(path)) if whole else _with_rows(path, requests, changes or {})
    for name, entry in requests.items():
        if name not in model.signatures:
            raise RuntimeError(f"the written model lacks the signature {name!r}.")
        for rows in (slice(None), slice(0, 1), slice(0, 0)):
            if entry["examples"]:
                fed = {"inputs": examples(entry["inputs"])[rows]}
            else:
                fed = {key: x if key in entry["user_inputs"] else x[rows] for key, x in feed(entry).items()}
            answer = model.signatures[name](**fed)
            wanted = entry["expected"]
            if not isinstance(wanted, Mapping):
                got = answer.get("probability", answer.get("outputs"))
                answer = {"": answer["scores"][:, 1:] if got is None else got}
                wanted = {"": np.array(wanted, np.float32).reshape(-1, 1)}
            if set(answer) != set(wanted):
                raise RuntimeError(f"the written model's {name} gives {sorted(answer)}, the live one {sorted(wanted)}.")
            for output, values in wanted.items():
                if output == "ids":
                    _compare_ids(name, answer, {key: np.array(array)[rows] for key, array in wanted.items()}, allowed)
                else:
                    _compare(name, answer[output].numpy(), np.array(values, np.float32)[rows], allowed)


def _compare(name: str, got: np.ndarray, expected: np.ndarray, allowed: float) -> None:
    difference = np.abs(got - expected) if got.shape == expected.shape else np.array(np.inf)
    # A row without a probability has none there either.
    difference = np.where(np.isnan(got) & np.isnan(expected), 0.0, difference)
    # Scores have no bound; probabilities have 1.
    difference = difference / np.maximum(1.0, np.abs(expected)) if got.shape == expected.shape else difference
    if not np.max(difference, initial=0.0) <= allowed:
        text = f"differs from the live one by {np.max(difference)}; at most {allowed} is allowed."
        raise RuntimeError(f"the written model's {name} {text}")


def _compare_ids(name: str, answer: Mapping[str, Any], expected: Mapping[str, np.ndarray], allowed: float) -> None:
    """Ids at places whose scores nearly equal those of others, or of what comes behind the last one, may be in another order."""
    got = answer["ids"].numpy()
    if got.dtype == object:
        got = np.array([value.decode() for value in got.flat], expected["ids"].dtype).reshape(got.shape)
    (scores,) = (array for key, array in expected.items() if key != "ids")
    clear = np.ones(scores.shape, bool)
    near = np.abs(np.diff(scores, axis=1)) <= 4 * allowed * np.maximum(1.0, np.abs(scores[:, 1:]))
    clear[:, 1:] &= ~near
    clear[:, :-1] &= ~near
    clear[:, -1:] = False
    if got.shape != expected["ids"].shape or (clear & (got != expected["ids"])).any():
        raise RuntimeError(f"the written model's {name} gives other ids than the live one.")


def feed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a request as tensors."""
    return {name: tf.constant(tensor["values"], tf.as_dtype(tensor["dtype"])) for name, tensor in entry["inputs"].items()}


def examples(inputs: Mapping[str, Any]) -> Any:
    """Columns as serialized `tf.train.Example`s, missing values left out."""
    columns = {name: np.asarray(column["values"]) for name, column in inputs.items()}
    messages = []
    for i in range(len(next(iter(columns.values())))):
        example = tf.train.Example()
        for name, column in inputs.items():
            values = np.atleast_1d(columns[name][i]).tolist()
            feature = example.features.feature[name]
            if column["dtype"] == "string":
                feature.bytes_list.value.extend(value.encode() for value in values if value)
            elif column["dtype"] == "int64":
                feature.int64_list.value.extend(values)
            else:
                feature.float_list.value.extend(value for value in values if value == value)
            if not feature.ListFields() or not any(getattr(f, "value", ()) for _, f in feature.ListFields()):
                del example.features.feature[name]
        messages.append(example.SerializeToString(deterministic=True))
    return tf.constant(messages, tf.string)


def _with_rows(path: Path, requests: Mapping[str, Any], changes: Mapping[str, np.ndarray]) -> Any:
    """The model, with those rows of its tables that requests look up, and changes."""
    model = tf.saved_model.load(str(path), options=tf.saved_model.LoadOptions(experimental_skip_checkpoint=True))
    prefix = str(path / "variables" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    for key in shapes:
        place = key.split("/")
        if not key.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            continue
        if place[0] != "tables" or place[2] == "map":
            _at(model, place[:-2]).assign(_constant(changes[key], dtypes[key]) if key in changes else reader.get_tensor(key))
        else:
            variable, (rows, *rest) = _at(model, place[:-2]), shapes[key]
            # Memory that nothing is written to takes none.
            variable.assign(tf.raw_ops.Empty(shape=[rows, *rest], dtype=dtypes[key], init=False))
            looked_up = sorted({row for entry in requests.values() for row in entry["rows"][int(place[1])]})
            if key in changes:
                if looked_up:
                    variable.scatter_update(tf.IndexedSlices(_constant(changes[key], dtypes[key]), looked_up))
                continue
            for row in looked_up:
                spec = f"{' '.join(map(str, [rows, *rest]))} {row},1{':-' * len(rest)}"
                (values,) = tf.raw_ops.RestoreV2(
                    prefix=prefix, tensor_names=[key], shape_and_slices=[spec], dtypes=[dtypes[key]]
                )
                variable.scatter_update(tf.IndexedSlices(values, [row]))
    return model


def _constant(array: np.ndarray, dtype: Any) -> Any:
    # NumPy's files keep no bfloat16, but its bytes.
    return tf.constant(array.view(dtype.as_numpy_dtype))


def _at(model: Any, place: list[str]) -> Any:
    for name in place:
        model = model[int(name)] if name.isdigit() else model[name] if isinstance(model, Mapping) else getattr(model, name)
    return model


def main(path: str, requests: str, changes: str | None = None) -> None:
    """Check, or exit with a sentence."""
    job = json.loads(Path(requests).read_text(encoding="utf-8"))
    changed = None if changes is None else dict(np.load(changes))
    os.chdir(Path(path).parent)  # As `writing.main` does.
    try:
        check(Path(Path(path).name), job["requests"], job["allowed"], job["loaded"], changed)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

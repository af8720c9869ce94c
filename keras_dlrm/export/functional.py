"""Functional models of the user's own, with their inputs and outputs by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.export import signatures
from keras_dlrm.export.elsewhere import modules_of
from keras_dlrm.export.requests import example_batch

_OPEN = 3  # what a size that an Input leaves open is in an example


def is_functional(model: Any) -> bool:
    """Whether a model is a functional `SparseModel`."""
    from keras_dlrm.models.sparse_model import FunctionalSparseModel

    return isinstance(model, FunctionalSparseModel)


def refuse_options(who: str, model: Any, **options: Any) -> None:
    """`ValueError` where an option was given that only models with a schema have."""
    for name, value in options.items():
        if value:
            raise ValueError(
                f"{who}: {name}={value!r} is for the models of kd.models that have a schema; leave it out."
            )


def input_names(model: Any) -> list[str]:
    """Names of the inputs, those of its `keras.Input`s as far as TensorFlow takes them, in the model's order."""
    names = signatures.input_names(tensor.name for tensor in model.inputs)
    return [names[tensor.name] for tensor in model.inputs]


def output_names(model: Any) -> list[str]:
    """Names of the outputs: keys of its dict of them, else of the layers that make them.

    Raises:
        ValueError: two are alike.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(model.output)]
    layers = [tensor._keras_history[0].name for tensor in model.outputs]
    named = [
        path[-1] if path and isinstance(path[-1], str) else layer for path, layer in zip(paths, layers, strict=True)
    ]
    return _unique(named)


def _unique(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"export: the outputs of the model are called {names}; give each a name of its own, as name=…."
            )
    return names


def example(model: Any, rows: int = 5) -> list[np.ndarray]:
    """Inputs of a batch, in the model's order: ids as `example_batch` has them, int64, and float32 numbers."""
    schemas = [layer.schema for layer in model._flatten_layers() if isinstance(layer, EmbeddingCollection)]
    found = []
    for tensor in model.inputs:
        shape = (rows, *(_OPEN if size is None else size for size in tensor.shape[1:]))
        if "int" in keras.backend.standardize_dtype(tensor.dtype):
            fitting = [schema for schema in schemas if shape[1:] == (schema.width,)]
            found.append(example_batch(fitting[0], rows)["sparse"] if fitting else np.zeros(shape, np.int64))
        else:
            found.append(np.linspace(-1, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    return found


def answers(model: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What a model predicts, by name of the output."""
    predicted = model.predict(keras.tree.pack_sequence_as(model.input, inputs), verbose=0)
    return dict(zip(output_names(model), keras.tree.flatten(predicted), strict=True))


def write(model: Any, path: Path, folder: Path, run: Any, check: Path) -> None:
    """Write the SavedModel and compare its answers with the model's.

    Args:
        model: A functional `SparseModel`, from any backend.
        path: The SavedModel's folder, which must not exist.
        folder: An empty one for what is passed on.
        run: Runs a program in a folder, and gives what it complains of.
        check: The program that compares.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, EmbeddingCollection):
            layer.require_whole("savedmodel")
    names, inputs = input_names(model), example(model)
    asked = {n: {"dtype": array.dtype.name, "values": array.tolist()} for n, array in zip(names, inputs, strict=True)}
    expected = {name: array.tolist() for name, array in answers(model, inputs).items()}
    request = {"inputs": asked, "expected": expected, "examples": False, "user_inputs": []}
    allowed = 1e-5 if model.compute_dtype == "float32" else 0.02
    _save(
        folder / "requests.json", {"requests": {"serving_default": request}, "allowed": allowed, "loaded": sys.maxsize}
    )
    model.save(folder / "model.keras")
    _save(folder / "job.json", {"modules": modules_of("savedmodel", model)})
    failed = run([sys.executable, "-m", "keras_dlrm.export.tensorflow_functional", str(folder), str(path)], folder)
    if failed:
        raise RuntimeError(f"savedmodel: rebuilding the model under TensorFlow failed:\n{failed}")
    failed = run([sys.executable, "-P", str(check), str(path), str(folder / "requests.json")], folder)
    if failed:
        raise RuntimeError(failed)


def described(model: Any) -> dict[str, Any]:
    """What a manifest says of the model."""
    return {
        "model": {"class": type(model).__name__, "name": model.name, "parameters": model.count_params()},
        "backend": keras.backend.backend(),
        "signatures": {"serving_default": "inputs of the model"},
        "inputs": dict(zip([tensor.name for tensor in model.inputs], input_names(model), strict=True)),
        "outputs": output_names(model),
    }


def _save(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")

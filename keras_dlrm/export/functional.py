"""Functional models of the user's own, with their inputs and outputs by name."""

from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import maker_of
from keras_dlrm.checkpoint.state import collections_of
from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.export import signatures
from keras_dlrm.export.requests import example_batch
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.sparse_model import FunctionalSparseModel

_OPEN = 3  # what a size that an Input leaves open is in an example


def is_functional(who: str, model: Any) -> bool:
    """Whether a model is a functional `SparseModel`; `TypeError` where it is not a model of `kd.models` either."""
    if isinstance(model, FunctionalSparseModel):
        return True
    if not isinstance(model, ClickModel):
        raise TypeError(f"{who}: expected a model of kd.models, or a functional SparseModel, not {type(model).__name__}.")
    return False


def inputs(model: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Shape and dtype of each input, in the model's order, under the name of its `keras.Input` as far as TensorFlow takes it."""
    names = signatures.input_names(tensor.name for tensor in model.inputs)
    dtypes = ["int64" if "int" in keras.backend.standardize_dtype(tensor.dtype) else "float32" for tensor in model.inputs]
    return {names[x.name]: ((None, *x.shape[1:]), dtype) for x, dtype in zip(model.inputs, dtypes, strict=True)}


def output_names(model: Any) -> list[str]:
    """Names of the outputs: keys of its dict of them, else of the layers that make them; `ValueError` where two are the same."""
    paths = [path for path, _ in keras.tree.flatten_with_path(model.output)]
    layers = [maker_of(tensor).name for tensor in model.outputs]
    names = [path[-1] if path and isinstance(path[-1], str) else layer for path, layer in zip(paths, layers, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(f"export: the outputs of the model are called {names}; give each a name of its own, as name=….")
    return names


def example(model: Any, rows: int = 5) -> dict[str, np.ndarray]:
    """Inputs of a batch by name: ids as `example_batch` has them, and numbers."""
    schemas = [layer.schema for layer in collections_of(model)]
    batch = {}
    for name, (sizes, dtype) in inputs(model).items():
        shape = (rows, *(_OPEN if size is None else size for size in sizes[1:]))
        if dtype == "int64":
            fitting = [schema for schema in schemas if shape[1:] == (schema.width,)]
            batch[name] = example_batch(fitting[0], rows)["sparse"] if fitting else np.zeros(shape, np.int64)
        else:
            batch[name] = np.linspace(-1, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return batch


def answers(model: Any, batch: dict[str, np.ndarray], stored: Any = None) -> dict[str, np.ndarray]:
    """Predictions of a model by name of the output, with `StoredTables` instead of its own if given."""
    packed = keras.tree.pack_sequence_as(model.input, list(batch.values()))
    if stored is None:
        outputs = model.predict(packed, verbose=0)
    else:
        with taped(stored):
            outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, packed), training=False)
    arrays = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten(outputs)]
    return dict(zip(output_names(model), arrays, strict=True))


def named(model: Any) -> dict[str, Any]:
    """Entries of a manifest about any model."""
    described = {"class": type(model).__name__, "name": model.name, "parameters": model.count_params()}
    return {"model": described, "backend": keras.backend.backend()}


def described(model: Any) -> dict[str, Any]:
    """Entries of a manifest about a functional model."""
    return {
        **named(model),
        "signatures": {"serving_default": "inputs of the model"},
        "inputs": dict(zip([tensor.name for tensor in model.inputs], inputs(model), strict=True)),
        "outputs": output_names(model),
    }

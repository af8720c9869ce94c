"""Refusal of whole models in HDF5, which would come back wrong."""

from __future__ import annotations

import os
from typing import Any

from keras_dlrm.backend.private_keras import writes_hdf5

_MESSAGE = (
    "save: an HDF5 file of a whole model holds neither embedding tables by name nor the slots of a row rule; save it as .keras, or "
    "the weights alone with model.save_weights('model.weights.h5')."
)


def refuse_hdf5(path: Any) -> None:
    """Refuse the path of an HDF5 file.

    Args:
        path: Where a whole model is to be saved.

    Raises:
        ValueError: it ends with .h5 or .hdf5.

    Example:

    >>> refuse_hdf5("model.keras")
    """
    if isinstance(path, (str, os.PathLike)) and str(path).endswith((".h5", ".hdf5")):
        raise ValueError(_MESSAGE)


def refuse_hdf5_in_writing() -> None:
    """Refuse to be asked for a configuration by `keras.saving.save_model(model, "model.h5")`, which asks no method of the model.

    Raises:
        ValueError: Keras writes HDF5.
    """
    if writes_hdf5():
        raise ValueError(_MESSAGE)

"""Fingerprint of a model's weights: the same on every backend, another one after a step of training."""

import hashlib
from typing import Any

import numpy as np

from keras_dlrm.checkpoint.state import collections_of, identity, pieces, value_of
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.files.checksums import content_digest

_ROWS = 2**16


def fingerprint(who: str, model: Any) -> str:
    """Checksum of what a model is and of all its weights, 64 hexadecimal digits.

    Args:
        who: Who asks; errors begin with it.
        model: A built model, whose tables are whole in this process.

    Raises:
        ValueError: the tables are in parts over several processes.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10)])
    >>> models = [kd.models.FM(schema, 4, seed=seed) for seed in (1, 1, 2)]
    >>> first, same, other = (fingerprint("example", model) for model in models)
    >>> first == same, first == other
    (True, False)
    """
    checksum = hashlib.sha256(content_digest(identity(model)["model"]).encode())
    for variable in model.weights:
        if not is_table(variable):
            checksum.update(np.ascontiguousarray(value_of(variable)).tobytes())
    for collection in collections_of(model):
        collection.require_whole(who)
        for piece in pieces(collection.store, collection.table_shapes, lambda table: {}):
            checksum.update(piece.shard.table.encode())
            for start in range(0, piece.shape[0], _ROWS):
                checksum.update(np.ascontiguousarray(piece.read(start, min(start + _ROWS, piece.shape[0]))).tobytes())
    return checksum.hexdigest()

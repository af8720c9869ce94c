"""Private names of keras-rs 0.4 that the package cannot do without, each with its reason."""

from typing import Any


def layer_off_sparse_core(layer: Any, path: Any) -> Any:
    """The Keras `Embedding` of a feature of a `DistributedEmbedding` without SparseCore; tables can be read there, not written."""
    return layer._default_device_embedding_layers[path]


def tables_on_sparse_core(layer: Any) -> Any:
    """TensorFlow's `TPUEmbeddingV2` in a `DistributedEmbedding`, with the layouts of its stacked tables.

    keras-rs can read tables there only where none is stacked with another, and cannot write them.
    """
    return layer._tpu_embedding

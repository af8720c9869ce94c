"""Keras layers of the models: MLPs, interactions, cross layers; keras.ops only, one layer a file."""

from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.sparse_core.tpu_embedding import TPUEmbedding
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.cross_layer import CrossLayer
from keras_dlrm.layers.dense_encoding import LinearEncoding, PeriodicEncoding, PiecewiseLinearEncoding
from keras_dlrm.layers.dot_interaction import DotInteraction
from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.layers.mlp import BottomMLP, TopMLP
from keras_dlrm.sharding.compression import QuotientRemainder, mixed_dimensions

__all__ = [
    "BottomMLP", "ConcatenationInteraction", "CrossLayer", "DotInteraction", "EmbeddingCollection", "FactorizationMachine",
    "LinearEncoding", "PeriodicEncoding", "PiecewiseLinearEncoding", "QuotientRemainder", "TPUEmbedding", "TopMLP",
    "mixed_dimensions",
]  # fmt: skip

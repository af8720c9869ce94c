"""Keras layers of the models: MLPs, interactions, cross layers; keras.ops only, one layer a file."""

from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.sparse_core.tpu_embedding import TPUEmbedding
from keras_dlrm.layers.bilinear_fusion import BilinearFusion
from keras_dlrm.layers.compressed_interaction import CompressedInteraction
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.cross_layer import CrossLayer
from keras_dlrm.layers.dense_encoding import LinearEncoding, PeriodicEncoding, PiecewiseLinearEncoding
from keras_dlrm.layers.dot_interaction import DotInteraction
from keras_dlrm.layers.ensemble import Ensemble
from keras_dlrm.layers.exponential_cross import ExponentialCross
from keras_dlrm.layers.factorization_machine import FactorizationMachine
from keras_dlrm.layers.field_attention import FieldAttention
from keras_dlrm.layers.gated_cross import GatedCross
from keras_dlrm.layers.mask_block import MaskBlock
from keras_dlrm.layers.mlp import BottomMLP, TopMLP
from keras_dlrm.layers.mmoe import MMoEHead
from keras_dlrm.layers.ple import PLEHead
from keras_dlrm.layers.task_head import SharedBottomHead
from keras_dlrm.layers.token_mixing import PerTokenMLP, TokenMixing
from keras_dlrm.layers.wukong_layer import WukongLayer
from keras_dlrm.sharding.compression import QuotientRemainder, mixed_dimensions

__all__ = [
    "BilinearFusion", "BottomMLP", "CompressedInteraction", "ConcatenationInteraction", "CrossLayer", "DotInteraction",
    "EmbeddingCollection", "Ensemble", "ExponentialCross", "FactorizationMachine", "FieldAttention", "GatedCross",
    "LinearEncoding", "MMoEHead", "MaskBlock", "PLEHead", "PerTokenMLP", "PeriodicEncoding", "PiecewiseLinearEncoding",
    "QuotientRemainder", "SharedBottomHead", "TPUEmbedding", "TokenMixing", "TopMLP", "WukongLayer", "mixed_dimensions",
]  # fmt: skip

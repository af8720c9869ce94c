"""Deep learning recommendation models for Keras 3 on TensorFlow, JAX and torch."""

from keras_dlrm import layers, models, optimizers
from keras_dlrm.schema import Categorical, Dense, Schema

__version__ = "0.1.0"
__all__ = ["Categorical", "Dense", "Schema", "layers", "models", "optimizers"]

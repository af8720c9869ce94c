"""Public names of the row rules: `kd.optimizers`."""

from keras_dlrm.embeddings.rules import SGD, Adagrad, Adam, Hybrid, RowRule, RowwiseAdagrad

__all__ = ["SGD", "Adagrad", "Adam", "Hybrid", "RowRule", "RowwiseAdagrad"]

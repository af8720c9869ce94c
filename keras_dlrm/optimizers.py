"""Optimizers for embedding rows and dense parameters: the public names of `keras_dlrm.embeddings.rules`."""

from keras_dlrm.embeddings.rules import SGD, Adagrad, Adam, Hybrid, RowRule, RowwiseAdagrad

__all__ = ["SGD", "Adagrad", "Adam", "Hybrid", "RowRule", "RowwiseAdagrad"]

"""Retrieval: indexes of items by their vectors, the search in them, recommendation in two stages, and evaluation."""

from keras_dlrm.retrieval.ann import to_faiss, to_usearch
from keras_dlrm.retrieval.evaluation import best_items, evaluate
from keras_dlrm.retrieval.index import Index
from keras_dlrm.retrieval.two_stage import recommend

__all__ = ["Index", "best_items", "evaluate", "recommend", "to_faiss", "to_usearch"]

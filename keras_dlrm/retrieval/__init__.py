"""Retrieval: indexes of items by their vectors, the search in them, and recommendation in two stages."""

from keras_dlrm.retrieval.ann import to_faiss, to_usearch
from keras_dlrm.retrieval.index import Index
from keras_dlrm.retrieval.two_stage import recommend

__all__ = ["Index", "recommend", "to_faiss", "to_usearch"]

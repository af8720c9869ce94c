"""Retrieval: indexes of items by their vectors, and the search in them."""

from keras_dlrm.retrieval.index import Index

__all__ = ["Index"]

"""Embedding tables: the collection layer, lookup, pooling, hashing, whole and sharded storage."""

"""Embedding tables: lookup and pooling, row rules, and the seam to the backends."""

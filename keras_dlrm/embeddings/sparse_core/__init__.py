"""Tables on a TPU's SparseCore."""

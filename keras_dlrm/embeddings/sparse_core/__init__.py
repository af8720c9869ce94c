"""Embedding tables on the SparseCores of TPUs, through keras-rs."""

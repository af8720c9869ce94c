"""Packed files of other programs, read as they are: MLPerf, the PyTorch reference, TorchRec."""

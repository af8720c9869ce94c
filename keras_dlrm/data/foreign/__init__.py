"""Processed files of other programs, read as they are: MLPerf, PyTorch DLRM, TorchRec."""

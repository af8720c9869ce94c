"""Weights from other libraries' models, and to them."""

from keras_dlrm.convert.torch_dlrm import from_torch_dlrm, to_torch_dlrm

__all__ = ["from_torch_dlrm", "to_torch_dlrm"]

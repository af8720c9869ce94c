"""Weights from and to other libraries: PyTorch DLRM, TorchRec, TensorFlow Recommenders."""

from keras_dlrm.convert.tfrs import from_tfrs
from keras_dlrm.convert.torch_dlrm import from_torch_dlrm, to_torch_dlrm
from keras_dlrm.convert.torchrec import from_torchrec, to_torchrec

__all__ = ["from_tfrs", "from_torch_dlrm", "from_torchrec", "to_torch_dlrm", "to_torchrec"]

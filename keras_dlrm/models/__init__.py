"""Models from logistic regression to DLRM, their base classes, labels, losses, presets, freezing, growth."""

from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.dcn import DCN, DCNv2
from keras_dlrm.models.deep_fm import DeepFM, WideDeep
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.models.fm import FM
from keras_dlrm.models.growth import grow
from keras_dlrm.models.logistic_regression import LogisticRegression
from keras_dlrm.models.presets import PRESETS, Preset
from keras_dlrm.models.sparse_model import SparseModel

__all__ = [
    "DCN", "DLRM", "FM", "PRESETS", "ClickModel", "DCNv2", "DeepFM", "LogisticRegression", "Preset", "SparseModel", "WideDeep",
    "grow",
]  # fmt: skip

"""Models from logistic regression to DLRM, their base classes, labels, losses, presets, freezing, growth."""

from keras_dlrm.models.auto_int import AutoInt
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.dcn import DCN, DCNv2
from keras_dlrm.models.dcn_v3 import DCNv3
from keras_dlrm.models.deep_fm import DeepFM, WideDeep
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.models.field_model import DeepModel, FieldModel
from keras_dlrm.models.final_mlp import FinalMLP
from keras_dlrm.models.fm import FM
from keras_dlrm.models.gdcn import GDCN
from keras_dlrm.models.growth import grow
from keras_dlrm.models.logistic_regression import LogisticRegression
from keras_dlrm.models.mask_net import MaskNet
from keras_dlrm.models.matrix_factorization import MatrixFactorization, NeuMF
from keras_dlrm.models.nfm import NFM
from keras_dlrm.models.presets import PRESETS, Preset
from keras_dlrm.models.rank_mixer import RankMixer
from keras_dlrm.models.sparse_model import SparseModel
from keras_dlrm.models.two_tower import TwoTower
from keras_dlrm.models.wukong import Wukong
from keras_dlrm.models.x_deep_fm import XDeepFM

__all__ = [
    "DCN", "DLRM", "FM", "GDCN", "NFM", "PRESETS", "AutoInt", "ClickModel", "DCNv2", "DCNv3", "DeepFM", "DeepModel", "FieldModel",
    "FinalMLP", "LogisticRegression", "MaskNet", "MatrixFactorization", "NeuMF", "Preset", "RankMixer", "SparseModel",
    "TwoTower", "WideDeep", "Wukong", "XDeepFM", "grow",
]  # fmt: skip

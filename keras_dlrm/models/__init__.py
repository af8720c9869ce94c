"""Models: each reads like the figure in its paper."""

from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.dlrm import DLRM

__all__ = ["DLRM", "ClickModel"]

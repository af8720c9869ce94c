"""Gated Deep & Cross Network."""

import keras

from keras_dlrm.models.dcn import CrossNetwork


@keras.saving.register_keras_serializable("keras_dlrm")
class GDCN(CrossNetwork):
    """All features side by side through a cross network whose layers have gates, before or alongside a deep network.

    `structure="stacked"` is the paper's GDCN-S, `"parallel"` its GDCN-P. The arguments are those of `DCNv2`, but for
    `projection_dim`: there are no low-rank gated layers.

    Source: Wang et al. 2023, "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", figure 2.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> GDCN(schema, 4, cross_layers=2, deep_mlp=[8]).count_params()
    207
    """

    cross_kind = "gated"

"""DCNv3, a network of exponential and of linear cross layers."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.exponential_cross import ExponentialCross
from keras_dlrm.models.field_model import FieldModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.support.arguments import integer, number


@keras.saving.register_keras_serializable("keras_dlrm")
class DCNv3(FieldModel):
    """Mean of two cross networks' logits, one with exponentially growing orders of crossing, one with linearly growing ones.

    In training each network has a loss of its own besides (Tri-BCE), weighted by how far it is above that of the mean; the
    weight passes no gradient.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors; the number of columns times it is even.
        exponential_layers: Layers of the exponential network.
        linear_layers: Layers of the linear network.
        dropout: Share of activations dropped after each layer.
        kernel_l2: L2 factor of the kernels.
        **kwargs: Further arguments of `FieldModel`.

    Source: Li et al. 2024, "DCNv3: Towards Next Generation Deep Cross Network for Click-Through Rate Prediction", figure 3,
    equations 2 to 8.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> DCNv3(schema, embedding_dim=4, exponential_layers=1, linear_layers=1).count_params()
    162
    """

    takes_tasks = True

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, exponential_layers: int = 3,
        linear_layers: int = 3, dropout: float = 0.0, kernel_l2: float = 0.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        dtype, dropout = self.dtype_policy, number("DCNv3", "dropout", dropout, below=1.0)
        n = len(self.columns) * self.width
        self.networks, self.logit_layers = [], []
        for part, (kind, count) in enumerate((("exponential", exponential_layers), ("linear", linear_layers))):
            network = []
            for i in range(integer("DCNv3", f"{kind}_layers", count)):
                seed = part_seed(self.seed, 3 + part, i)
                cross = ExponentialCross(kernel_l2, seed, dtype=dtype, name=f"{kind}_{i}")
                cross.build((None, n))
                network.append(cross)
            self.networks.append(network)
            self.logit_layers.append(self.last_layer(n, 1 + part, f"{kind}_logit"))
        self.dropout = keras.layers.Dropout(dropout, seed=part_seed(self.seed, 6), dtype=dtype, name="dropout")
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        x0, parts = self.side_by_side(vectors), []
        for kind, network, logit in zip(("exponential", "linear"), self.networks, self.logit_layers, strict=True):
            x = x0
            for cross in network:
                x = self.dropout(cross(x) if kind == "exponential" else cross(x, x0), training=training)
            parts.append(first_order + logit(x))
        if training:
            self.__dict__["_parts"] = parts  # for the loss of this very call, which takes them out
        return 0.5 * (parts[0] + parts[1])

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        loss, y_pred = super().loss_and_prediction(x, y, part, training)
        if not training:
            return loss, y_pred
        total, penalty = loss, sum(self.losses)  # L2, which each loss has
        for logits in self.__dict__.pop("_parts"):
            prediction = ops.sigmoid(logits)
            own = self.loss_of_logits(x, y, prediction, logits, part, training)
            # By the rows of all processes.
            (above,) = part.sum([ops.stop_gradient(part.share(own) - part.share(loss))])
            total = total + ops.relu(ops.stop_gradient(above)) * (own - penalty)
        return total, y_pred

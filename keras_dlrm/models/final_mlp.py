"""FinalMLP."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, part_seed
from keras_dlrm.layers.bilinear_fusion import BilinearFusion
from keras_dlrm.layers.mlp import MLP, TopMLP
from keras_dlrm.models.field_model import DeepModel
from keras_dlrm.schema.schema import Schema


@keras.saving.register_keras_serializable("keras_dlrm")
class FinalMLP(DeepModel):
    """Two MLPs, each on its own gated selection of the vectors' elements, and a bilinear fusion of both.

    A gate is 2σ(MLP(context)), where the context is the vectors of some columns, or a learned vector.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        second_mlp: Widths of the second MLP; those of `deep_mlp`, the first, if omitted.
        gate_mlp: Widths of the hidden layers of the gates; `None`: no gates.
        contexts: Names of the columns that are the context of the first gate, and of the second; none: a learned vector.
        heads: Heads of the fusion.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Raises:
        ValueError: a context that is not a column; widths that are no multiple of the heads.

    Source: Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", figure 1.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> FinalMLP(schema, embedding_dim=4, deep_mlp=[6], gate_mlp=[3], contexts=[["C1"], []]).count_params()
    303
    """

    several_labels = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, second_mlp: Sequence[int] | None = None,
        gate_mlp: Sequence[int] | None = (64,), contexts: Sequence[Sequence[str]] = ((), ()), heads: int = 1, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        if len(contexts) != 2 or any(isinstance(names, str) for names in contexts):
            raise ValueError(f"FinalMLP: contexts={contexts!r} must be two lists of columns, one for each gate.")
        self.places = [[self._place(name) for name in names] for names in contexts]
        n = len(self.columns) * self.width
        units = [self.deep_options.units, self.deep_options.units if second_mlp is None else list(second_mlp)]
        self.gates, self.learned, self.networks = [], [], []
        for i, places in enumerate(self.places):
            if gate_mlp is not None:
                # Without the dropout and batch normalization of the networks.
                options = {"seed": part_seed(self.seed, 2, i), "dtype": self.dtype_policy, "name": f"gate_{i}"}
                gate = TopMLP([*gate_mlp, n], **options)
                gate.build((None, max(1, len(places)) * self.width))
                self.gates.append(gate)
                initializer = ReferenceKernel([part_seed(self.seed, 4, i)])
                weight = {"name": f"context_{i}", "shape": (1, self.width), "initializer": initializer}
                self.learned.append(None if places else self.add_weight(**weight))
            self.networks.append(self.network(MLP, n, units[i], 1 + 5 * i, f"mlp_{i}"))
        self.fusion = BilinearFusion(heads, part_seed(self.seed, 3), name="fusion")
        self.fusion.build(*((None, each[-1]) for each in units))
        self.built = True

    def _place(self, name: str) -> int:
        if name not in self.columns:
            raise ValueError(f"FinalMLP: contexts has {name!r}, which is not a column; known are {self.columns}.")
        return self.columns.index(name)

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        x, streams = self.side_by_side(vectors), []
        for i, network in enumerate(self.networks):
            gated = x if not self.gates else x * ops.cast(self._gate(i, vectors), x.dtype)
            streams.append(network(gated, training=training))
        return first_order + self.fusion(*streams)

    def _gate(self, i: int, vectors: Any) -> Any:
        """Factors of all elements, (B, F·D), or (1, F·D) where the context is a learned vector."""
        context = self.learned[i]
        if self.places[i]:
            context = ops.concatenate([vectors[:, place] for place in self.places[i]], axis=1)
        return 2.0 * ops.sigmoid(self.gates[i](context))

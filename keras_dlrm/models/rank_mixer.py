"""RankMixer."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceProjection, part_seed
from keras_dlrm.layers.token_mixing import PerTokenMLP, TokenMixing
from keras_dlrm.models.field_model import FieldModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class RankMixer(FieldModel):
    """All vectors cut into T tokens, blocks of token mixing and per-token MLPs, and a logit of the mean token.

    A block: S = LN(mixed X + X), then LN(per-token MLP of S + S).

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        tokens: Number of tokens T, at most as many as the vectors have numbers.
        token_dim: Width of a token, a multiple of T.
        blocks: How many blocks.
        ratio: Width of the MLPs' hidden layer, in widths of a token.
        **kwargs: Further arguments of `FieldModel`.

    Raises:
        ValueError: more tokens than numbers, or a width that is no multiple of the tokens.

    Source: Zhu et al. 2025, "RankMixer: Scaling Up Ranking Models in Industrial Recommenders", figure 1.

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> RankMixer(schema, embedding_dim=4, tokens=2, token_dim=4, blocks=1, ratio=2).count_params()
    261
    """

    takes_tasks = True

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, tokens: int = 8, token_dim: int = 64,
        blocks: int = 2, ratio: int = 4, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        numbers, dtype = len(self.columns) * self.width, self.dtype_policy
        self.tokens = integer("RankMixer", "tokens", tokens, high=numbers)
        if integer("RankMixer", "token_dim", token_dim) % tokens:
            raise ValueError(f"RankMixer: token_dim={token_dim} must be a multiple of tokens={tokens}.")
        self.share = -(-numbers // tokens)  # numbers of a token, the last ones filled up with zeros
        options = {"bias_axes": "td", "kernel_initializer": ReferenceProjection([self.seed, 1]), "dtype": dtype}
        self.to_tokens = keras.layers.EinsumDense("btn,tnd->btd", (tokens, token_dim), **options, name="to_tokens")
        self.to_tokens.build((None, tokens, self.share))
        self.mixing = TokenMixing(dtype=dtype, name="mixing")
        shape = (None, tokens, token_dim)
        self.mixing.build(shape)
        self.blocks = []
        for i in range(integer("RankMixer", "blocks", blocks)):
            mlp = PerTokenMLP(ratio, part_seed(self.seed, 3, i), dtype=dtype, name=f"mlp_{i}")
            norms = [keras.layers.LayerNormalization(dtype=dtype, name=f"norm_{i}_{j}") for j in (0, 1)]
            for layer in (mlp, *norms):
                layer.build(shape)
            self.blocks.append((mlp, *norms))
        self.logit = self.last_layer(token_dim, 2, "logit")
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        x = self.side_by_side(vectors)
        if missing := self.tokens * self.share - x.shape[1]:
            x = ops.concatenate([x, ops.zeros_like(x[:, :missing])], axis=1)
        x = self.to_tokens(ops.reshape(x, (-1, self.tokens, self.share)))  # (B, T, token_dim)
        for mlp, after_mixing, after_mlp in self.blocks:
            x = after_mixing(self.mixing(x) + x)
            x = after_mlp(mlp(x) + x)
        return first_order + self.logit(ops.mean(x, axis=1))

"""Logits of every model in NumPy, from its weights, by the figures of the papers; and their cross-entropy."""

import keras
import numpy as np

from helpers import numpy_layers as layers
from helpers.pooling import pooled


class Parts:
    """Parts of every model, in NumPy: dense features, vectors (B, F, D) and terms of first order of a batch."""

    def __init__(self, model, batch):
        self.dense = batch["dense"].astype("float64") if model.schema.dense else None
        vectors, self.first_order = [], 0.0
        if model.embeddings is not None:
            vectors = np.array(pooled(model.embedding_tables(), model.schema, batch["sparse"])).transpose(1, 0, 2)
            if model.first_order:
                self.first_order = 3 * vectors[:, :, -model.n_labels :].sum(0)
                vectors = vectors[:, :, : -model.n_labels]
        if getattr(model, "encoded", None) is not None:
            vectors = [*layers.encoded(model.encoded, batch["dense"]).transpose(1, 0, 2), *vectors]
        if model.first_order and hasattr(model, "linear"):
            kernel, bias = model.linear.get_weights()
            self.first_order = self.first_order + bias + (0 if self.dense is None else self.dense @ kernel)
        self.vectors = np.stack(vectors, 1) if len(vectors) else None

    @property
    def flat(self):
        return self.vectors.reshape(len(self.vectors), -1)


def numpy_linear(model, parts):
    kernel, bias = model.linear.get_weights()
    return bias + parts.vectors.sum(1) + (0 if parts.dense is None else parts.dense @ kernel)


def numpy_dlrm(model, parts):
    first = [] if parts.dense is None else [layers.mlp(model.bottom_mlp, parts.dense)]
    vectors = [] if parts.vectors is None else list(parts.vectors.transpose(1, 0, 2))
    all_vectors = np.stack([*first, *vectors], 1)
    flat = all_vectors.reshape(len(all_vectors), -1)
    kind = model.interaction_kind if model.interaction_kind != "layer" else type(model.interaction).__name__
    if kind in ("dot", "cat_dot"):
        x = [*first] if kind == "dot" else [flat]
        x.append(layers.dot(model.interaction, all_vectors))
    elif kind == "PairSum":
        pairs = layers.factorization_machine(None, all_vectors)
        x = [*first[: int(model.concat_dense)], pairs @ model.interaction.weight.get_weights()[0]]
    elif kind == "FieldAttention":
        x = [layers.attention(model.interaction, all_vectors).reshape(len(flat), -1)]
    else:
        x = [*first[: int(model.concat_dense)], layers.crossed(model.crosses, flat)]
    return layers.mlp(model.top_mlp, np.concatenate(x, 1)) + parts.first_order


def numpy_dcn(model, parts):
    x0 = np.concatenate([*([] if parts.dense is None else [parts.dense]), parts.flat], 1)
    last = layers.crossed(model.crosses, x0)
    if model.deep_mlp is not None and model.structure == "stacked":
        last = layers.mlp(model.deep_mlp, last)
    elif model.deep_mlp is not None:
        last = np.concatenate([last, layers.mlp(model.deep_mlp, x0)], 1)
    return layers.dense(model.logit, last) + parts.first_order


def numpy_fm(model, parts):
    return parts.first_order + layers.factorization_machine(model.pairs, parts.vectors).sum(1, keepdims=True)


def numpy_wide_deep(model, parts):
    return parts.first_order + layers.mlp(model.deep_mlp, parts.flat)


def numpy_nfm(model, parts):
    return parts.first_order + layers.mlp(model.deep_mlp, layers.factorization_machine(model.pairs, parts.vectors))


def numpy_deep_fm(model, parts):
    return numpy_fm(model, parts) + layers.mlp(model.deep_mlp, parts.flat)


def numpy_x_deep_fm(model, parts):
    explicit = layers.dense(model.compressed_logit, layers.compressed_interaction(model.compressed, parts.vectors))
    return numpy_wide_deep(model, parts) + explicit


def numpy_auto_int(model, parts):
    attended = parts.vectors
    for layer in model.attention:
        attended = layers.attention(layer, attended)
    return numpy_wide_deep(model, parts) + layers.dense(model.attention_logit, attended.reshape(len(attended), -1))


def numpy_mask_net(model, parts):
    x = layers.normalized(model.norm, parts.vectors).reshape(parts.flat.shape)
    if model.structure == "parallel":
        x = np.concatenate([layers.mask_block(block, parts.flat, x) for block in model.blocks], 1)
    else:
        for block in model.blocks:
            x = layers.mask_block(block, parts.flat, x)
    return parts.first_order + layers.mlp(model.deep_mlp, x)


def numpy_final_mlp(model, parts):
    streams = []
    for i, network in enumerate(model.networks):
        x = parts.flat
        if model.gates:
            context = [parts.vectors[:, place] for place in model.places[i]]
            context = np.concatenate(context, 1) if context else keras.ops.convert_to_numpy(model.learned[i])
            x = x * 2 * layers.sigmoid(layers.mlp(model.gates[i], context))
        streams.append(layers.mlp(network, x))
    return parts.first_order + layers.bilinear_fusion(model.fusion, *streams)


def parts_of_dcn_v3(model, parts):
    logits = []
    for i, (network, logit) in enumerate(zip(model.networks, model.logit_layers, strict=True)):
        x = parts.flat
        for cross in network:
            x = layers.exponential_cross(cross, x, parts.flat if i else None)
        logits.append(parts.first_order + layers.dense(logit, x))
    return logits


def numpy_dcn_v3(model, parts):
    return sum(parts_of_dcn_v3(model, parts)) / 2


def numpy_wukong(model, parts):
    x = parts.vectors
    for layer in model.stack:
        x = layers.wukong(layer, x)
    return parts.first_order + layers.mlp(model.deep_mlp, x.reshape(len(x), -1))


def numpy_rank_mixer(model, parts):
    flat = np.pad(parts.flat, ((0, 0), (0, model.tokens * model.share - parts.flat.shape[1])))
    kernel, bias = model.to_tokens.get_weights()
    x = np.einsum("btn,tnd->btd", flat.reshape(len(flat), model.tokens, -1), kernel) + bias
    for mlp, after_mixing, after_mlp in model.blocks:
        x = layers.normalized(after_mixing, layers.token_mixing(None, x) + x)
        x = layers.normalized(after_mlp, layers.per_token_mlp(mlp, x) + x)
    return parts.first_order + layers.dense(model.logit, x.mean(1))


def numpy_factorization(model, parts):
    user, item, *implicit = (parts.vectors[:, place] for place in model.places)
    return parts.first_order + ((user + sum(implicit)) * item).sum(1, keepdims=True)


def numpy_neu_mf(model, parts):
    user, item = (parts.vectors[:, place] for place in model.places)
    cut = model.product_dim
    deep = layers.mlp(model.deep_mlp, np.concatenate([user[:, cut:], item[:, cut:]], 1))
    return parts.first_order + layers.dense(model.logit, np.concatenate([user[:, :cut] * item[:, :cut], deep], 1))


def numpy_two_tower(model, parts):
    sides = []
    for columns, tower in ((model.user_columns, model.user_tower), (model.item_columns, model.item_tower)):
        own = parts.vectors[:, [model.columns.index(name) for name in columns]]
        vectors = own.sum(1) if tower is None else layers.mlp(tower, own.reshape(len(own), -1))
        sides.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if model.normalize else vectors)
    return (sides[0] * sides[1]).sum(1, keepdims=True) / model.temperature


def bce(z, y):
    """Cross-entropy of each example, from logits."""
    return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))

"""The layers in NumPy, by the formulas of their papers: `layer, *inputs → output`. Layers and models are held against them."""

from math import erf

import numpy as np

from helpers.encodings import encode, encoded
from keras_dlrm.layers import BottomMLP, CrossLayer, MMoEHead, PLEHead
from keras_dlrm.layers.task_head import TaskHead

__all__ = ["encode", "encoded"]


def weights_of(layer):
    """Own weights by name, float64."""
    return {v.name: w.astype("float64") for v, w in zip(layer.weights, layer.get_weights(), strict=True)}


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalized(layer, x):
    """A `LayerNormalization`."""
    gamma, beta = layer.get_weights()
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


def dense(layer, x):
    """A last layer: linear, or a head for several labels."""
    if isinstance(layer, TaskHead):
        return task_head(layer, x)
    kernel, bias = layer.get_weights()
    return x @ kernel.astype("float64") + bias


def dot(layer, x):
    """Pairs one after the other, as the docstring lists them."""
    pairs = [(i, j) for i in range(x.shape[1]) for j in range(i + 1 if layer.self_interaction else i)]
    return np.array([[example[i] @ example[j] for i, j in pairs] for example in x]).reshape(len(x), len(pairs))


def side_by_side(layer, x):
    return x.reshape(len(x), x.shape[1] * x.shape[2])


def factorization_machine(layer, x):
    return sum((x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i)), np.zeros_like(x[:, 0]))


def cross(layer, x0, x):
    weights = weights_of(layer)
    out = np.empty_like(x0)
    for row in range(len(x0)):
        if layer.kind == "vector":
            out[row] = x0[row] * float(x[row] @ weights["kernel"][:, 0]) + weights["bias"] + x[row]
        else:
            down = weights["down"] if layer.projection_dim else np.eye(x.shape[1])
            out[row] = x0[row] * (weights["kernel"].T @ (down.T @ x[row]) + weights["bias"]) + x[row]
    return out


def gated_cross(layer, x0, x):
    w = weights_of(layer)
    return x0 * (x @ w["kernel"] + w["bias"]) * sigmoid(x @ w["gate"]) + x


def exponential_cross(layer, x, x0=None):
    w = weights_of(layer)
    half = x @ w["kernel"]
    cross = np.concatenate([half, half * relu(normalized(layer.norm, half))], 1)
    return (x if x0 is None else x0) * (cross + w["bias"]) + x


def crossed(layers, x0):
    """A network of cross layers."""
    x = x0
    for layer in layers:
        x = cross(layer, x0, x) if isinstance(layer, CrossLayer) else gated_cross(layer, x0, x)
    return x


def mlp(layer, x):
    for i, hidden in enumerate(layer.dense_layers):
        x = dense(hidden, x)
        if isinstance(layer, BottomMLP) or layer.activate_last or i < len(layer.dense_layers) - 1:
            if layer.batch_norm:
                gamma, beta, mean, variance = layer.norms[i].get_weights()
                x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
            x = np.tanh(x) if layer.activation.__name__ == "tanh" else relu(x)
    return task_head(layer.head, x) if hasattr(layer, "head") else x


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def task_head(layer, x):
    """Logits (B, T), label by label."""
    if isinstance(layer, MMoEHead):
        (gates,), experts = layer.gates.get_weights(), [mlp(expert, x) for expert in layer.experts]
        count, towers = len(experts), []
        for t in range(layer.labels):
            weights = softmax(x @ gates[:, t * count : (t + 1) * count].astype("float64"))
            towers.append(sum(weights[:, [i]] * expert for i, expert in enumerate(experts)))
    elif isinstance(layer, PLEHead):
        towers = [x] * (layer.labels + 1)
        for groups, gates in zip(layer.experts, layer.gates, strict=True):
            outputs = [[mlp(expert, own) for expert in group] for group, own in zip(groups, towers, strict=True)]
            mixtures = []
            for t, gate in enumerate(gates):
                weighed = outputs[t] + outputs[-1] if t < layer.labels else [expert for group in outputs for expert in group]
                weights = softmax(towers[t] @ gate.get_weights()[0].astype("float64"))
                mixtures.append(sum(weights[:, [i]] * expert for i, expert in enumerate(weighed)))
            towers = mixtures
    else:
        towers = [x] * layer.labels
    return np.concatenate([mlp(tower, own) for tower, own in zip(layer.towers, towers, strict=True)], 1)


def attention(layer, x):
    w, d, heads = weights_of(layer), layer.head_dim, []
    for h in range(layer.heads):
        query, key, value = (x @ w[name][:, h * d : (h + 1) * d] for name in ("query", "key", "value"))
        scores = np.exp(np.einsum("bid,bjd->bij", query, key))
        heads.append(scores / scores.sum(2, keepdims=True) @ value)
    return relu(np.concatenate(heads, 2) + x @ w["residual"])


def compressed_interaction(layer, x):
    maps, sums = x, []
    for kernel in layer.get_weights():
        kernel = kernel.reshape(maps.shape[1], x.shape[1], -1)
        maps = np.einsum("bid,bjd,ijh->bhd", maps, x, kernel)
        sums.append(maps.sum(2))
    return np.concatenate(sums, 1)


def mask_block(layer, x0, x):
    w = weights_of(layer)
    mask = relu(x0 @ w["hidden"] + w["hidden_bias"]) @ w["mask"] + w["mask_bias"]
    return relu(normalized(layer.norm, (x * mask) @ w["kernel"]))


def bilinear_fusion(layer, x, y):
    w, h = weights_of(layer), layer.heads
    n, m = x.shape[1] // h, y.shape[1] // h
    fused = sum(
        np.einsum("bi,ij,bj->b", x[:, k * n : (k + 1) * n], w["kernel"][k * n : (k + 1) * n], y[:, k * m : (k + 1) * m])
        for k in range(h)
    )
    return x @ w["of_x"] + y @ w["of_y"] + fused[:, None] + w["bias"]


def wukong(layer, x):
    w = weights_of(layer)
    products = side_by_side(layer, np.einsum("bid,bjd,jk->bik", x, x, w["projection"]))
    crossed = mlp(layer.to_vectors, normalized(layer.before, products)).reshape(len(x), layer.fm_vectors, x.shape[2])
    linear = np.einsum("bid,ik->bkd", x, w["compression"])
    residual = np.einsum("bid,ik->bkd", x, w["residual"]) if "residual" in w else x
    return normalized(layer.after, np.concatenate([crossed, linear], 1) + residual)


def token_mixing(layer, x):
    tokens = x.shape[1]
    return np.stack([np.concatenate([np.split(x[:, s], tokens, 1)[t] for s in range(tokens)], 1) for t in range(tokens)], 1)


def per_token_mlp(layer, x):
    w, out = weights_of(layer), []
    for t in range(x.shape[1]):
        hidden = x[:, t] @ w["hidden"][t] + w["hidden_bias"][t]
        hidden = hidden * 0.5 * (1 + np.vectorize(erf, otypes=[float])(hidden / np.sqrt(2)))
        out.append(hidden @ w["output"][t] + w["output_bias"][t])
    return np.stack(out, 1)


def ensemble(layer, x):
    outputs = [BY_CLASS[type(part).__name__](part, x) for part in layer.interactions]
    combined = sum(outputs) if layer.combine == "sum" else np.concatenate(outputs, 1)
    w = weights_of(layer)
    return normalized(layer.norm, combined + (np.einsum("bid,ij->bjd", x, w["shortcut"]) if "shortcut" in w else x))


# Layers that an ensemble is made of.
BY_CLASS = {"FieldAttention": attention, "WukongLayer": wukong, "TokenMixing": token_mixing, "PerTokenMLP": per_token_mlp}

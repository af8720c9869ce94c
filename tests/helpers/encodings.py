"""Encodings of dense columns in NumPy, beside which layers and models are held."""

import numpy as np


def encode(layer, x):
    """Vectors (B, n, D) of dense features (B, n) by a layer's weights."""
    weights = {v.name: np.asarray(w, "float64") for v, w in zip(layer.weights, layer.get_weights(), strict=True)}
    x = np.asarray(x, "float64")[:, :, None]
    if "coefficients" in weights:
        angles = 2 * np.pi * x * weights["coefficients"]
        basis = np.concatenate([np.sin(angles), np.cos(angles)], 2)
    elif layer.size == 1:
        basis = x
    else:
        starts = np.linspace(-1, 1, layer.bins, endpoint=False)
        basis = np.clip((x - starts) * layer.bins / 2, 0, 1)
    vectors = np.einsum("bnt,ntd->bnd", basis, weights["kernel"]) + weights["bias"]
    if layer.activation.__name__ == "relu":
        vectors = np.maximum(vectors, 0)
    return np.where(x < -1.5, weights["missing"], vectors) if layer.marks_missing else vectors


def encoded(layer, x):
    """Vectors (B, n', D) of those dense features that have an encoding."""
    vectors = {}
    for places, group in zip(layer.places, layer.groups, strict=True):
        vectors |= dict(zip(places, encode(group, x[:, places]).transpose(1, 0, 2), strict=True))
    return np.stack([vectors[place] for place in sorted(vectors)], 1)

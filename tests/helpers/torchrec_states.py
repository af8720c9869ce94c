"""Weights named and shaped as TorchRec's."""

from __future__ import annotations

import numpy as np

BAG = "sparse_arch.embedding_bag_collection.embedding_bags."
DIM, DENSE = 4, 3


def state_dict(sizes=(("t_a", 9), ("t_b", 5), ("t_c", 6)), vectors=4, crosses=0, seed=0):
    """Named and shaped as TorchRec names and shapes its parameters."""
    draw = np.random.default_rng(seed)
    width = vectors * DIM if crosses else DIM + vectors * (vectors - 1) // 2
    shapes = {f"{BAG}{name}.weight": (rows, DIM) for name, rows in sizes}
    for k in range(crosses):
        shapes |= {f"inter_arch.crossnet.W_kernels.{k}": (width, 3), f"inter_arch.crossnet.V_kernels.{k}": (3, width)}
        shapes[f"inter_arch.crossnet.bias.{k}"] = (width,)
    linears = [("dense_arch.model._mlp.0._linear", (7, DENSE)), ("dense_arch.model._mlp.1._linear", (DIM, 7)),
               ("over_arch.model.0._mlp.0._linear", (6, width)), ("over_arch.model.0._mlp.1._linear", (5, 6)),
               ("over_arch.model.1", (1, 5))]  # fmt: skip
    for key, shape in linears:
        shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    return {key: (draw.normal(size=shape) / shape[-1] ** 0.5).astype("float32") for key, shape in shapes.items()}

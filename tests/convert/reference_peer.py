"""The reference's own DLRM_Net: `python reference_peer.py make|load CLONE FOLDER`.

`make` writes, for each case, a checkpoint as the reference saves it (`CASE.pt`), and inputs and probabilities (`CASE.npz`).
`load` reads state_dicts from `CASE.back.npz` with `strict=True` and writes their probabilities to `CASE.answer.npy`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

# What the program imports besides its model: data, logging, plots.
for unused in ("dlrm_data_pytorch", "mlperf_logger", "onnx", "sklearn", "sklearn.metrics", "torch.utils.tensorboard", "tqdm"):
    sys.modules[unused] = mock.MagicMock()
sys.path.insert(0, sys.argv[2])

import numpy as np  # noqa: E402
import torch  # noqa: E402
from dlrm_s_pytorch import DLRM_Net  # noqa: E402

SIZES, DIM, DENSE, ROWS = [9, 5, 6], 4, 3, 50
# Interaction, with itself, most ids of each table, options of the model.
CASES = {
    "dot": ("dot", False, [1, 1, 1], {}),
    "itself": ("dot", True, [3, 1, 2], {}),
    "cat": ("cat", False, [3, 1, 2], {}),
    "pooling": ("dot", False, [3, 1, 2], {"weighted_pooling": "learned"}),
    "mult": ("dot", False, [1, 1, 1], {"qr_flag": True, "qr_operation": "mult", "qr_collisions": 2, "qr_threshold": 5}),
    "add": ("dot", False, [3, 1, 2], {"qr_flag": True, "qr_operation": "add", "qr_collisions": 2, "qr_threshold": 5}),
    "narrow": ("dot", False, [3, 1, 2], {"md_flag": True, "md_threshold": 0}),
}


def model(interaction: str, itself: bool, options: dict) -> DLRM_Net:
    vectors = len(SIZES) + 1
    width = vectors * DIM if interaction == "cat" else DIM + vectors * (vectors + (1 if itself else -1)) // 2
    widths = {"ln_emb": SIZES, "ln_bot": [DENSE, 7, DIM], "ln_top": [width, 6, 1]}
    dims = np.array([2, DIM, 1]) if "md_flag" in options else DIM
    return DLRM_Net(
        dims, **{name: np.array(value) for name, value in widths.items()}, arch_interaction_op=interaction,
        arch_interaction_itself=itself, sigmoid_bot=-1, sigmoid_top=1, **options,
    )  # fmt: skip


def inputs(hotness: list[int], seed: int) -> tuple[np.ndarray, list[list[list[int]]]]:
    draw = np.random.default_rng(seed)
    bags = [
        [draw.integers(0, n, draw.integers(0 if most > 1 else 1, most + 1)).tolist() for _ in range(ROWS)]
        for n, most in zip(SIZES, hotness, strict=True)
    ]
    return draw.normal(size=(ROWS, DENSE)).astype("float32"), bags


def probabilities(net: DLRM_Net, dense: np.ndarray, bags: list[list[list[int]]]) -> np.ndarray:
    offsets = [torch.tensor(np.cumsum([0, *map(len, column)])[:-1]) for column in bags]
    ids = [torch.tensor([i for bag in column for i in bag], dtype=torch.int64) for column in bags]
    with torch.no_grad():
        return net(torch.tensor(dense), offsets, ids).numpy()


def make(folder: Path) -> None:
    for seed, (case, (interaction, itself, hotness, options)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        net = model(interaction, itself, options)
        with torch.no_grad():
            for value in net.parameters():
                value.copy_(torch.randn_like(value) * 0.6)
        dense, bags = inputs(hotness, seed)
        torch.save({"iter": 1, "epoch": 0, "train_loss": 0.5, "state_dict": net.state_dict()}, folder / f"{case}.pt")
        padded = {
            f"C{i + 1}": np.array([bag + [-1] * (most - len(bag)) for bag in column], np.int64)
            for i, (column, most) in enumerate(zip(bags, hotness, strict=True))
        }
        np.savez(folder / f"{case}.npz", dense=dense, expected=probabilities(net, dense, bags), **padded)


def load(folder: Path) -> None:
    for seed, (case, (interaction, itself, hotness, options)) in enumerate(CASES.items()):
        net = model(interaction, itself, {n: v for n, v in options.items() if n != "weighted_pooling"})
        with np.load(folder / f"{case}.back.npz") as state:
            net.load_state_dict({key: torch.tensor(state[key]) for key in state.files}, strict=True)
        np.save(folder / f"{case}.answer.npy", probabilities(net, *inputs(hotness, seed)))


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](Path(sys.argv[3]))

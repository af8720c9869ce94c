"""Shapes of models and batches of random ids, the same for every contestant. NumPy only: peers import it, too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shape:
    """A DLRM with dot interaction.

    Args:
        rows: Rows of each table.
        dim: Width of all tables.
        n_dense: Dense features.
        bottom: Widths of the bottom MLP.
        top: Widths of the top MLP.
    """

    rows: tuple[int, ...]
    dim: int = 16
    n_dense: int = 13
    bottom: tuple[int, ...] = (512, 256, 64, 16)
    top: tuple[int, ...] = (512, 256, 1)

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in float32."""
        return 4 * self.dim * sum(self.rows)

    @property
    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each Dense layer."""
        vectors = len(self.rows) + 1
        top_in = self.dim + vectors * (vectors - 1) // 2
        bottom, top = (self.n_dense, *self.bottom), (top_in, *self.top)
        return [*zip(bottom, bottom[1:], strict=False), *zip(top, top[1:], strict=False)]


SHAPES = {
    "kaggle": Shape(KAGGLE_ROWS),
    "kaggle-1e-3": Shape(tuple(max(3, round(n / 1000)) for n in KAGGLE_ROWS)),
}


def write(folder: Path, shape: Shape, rows: int, distribution: str = "zipf", seed: int = 0) -> None:
    """Rows of a log as `dense.npy`, `sparse.npy` (int32) and `label.npy`, and `shape.json`.

    Args:
        folder: Where to.
        shape: The model.
        rows: How many.
        distribution: `"zipf"`: id k of n is drawn with a density falling as 1/k, as popularity does in click logs.
            `"uniform"`: each id alike, the hardest case: a batch repeats hardly any id of a large table.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    ids = np.empty((rows, len(shape.rows)), np.int32)
    for column, size in enumerate(shape.rows):
        u = rng.random(rows)
        drawn = (size + 1.0) ** u - 1.0 if distribution == "zipf" else size * u
        ids[:, column] = np.minimum(drawn.astype(np.int64), size - 1)
    np.save(folder / "sparse.npy", ids)
    np.save(folder / "dense.npy", rng.random((rows, shape.n_dense), dtype=np.float32))
    np.save(folder / "label.npy", rng.integers(0, 2, rows).astype(np.float32))
    (folder / "shape.json").write_text(json.dumps(dataclasses.asdict(shape)))


def read(folder: Path) -> tuple[Shape, np.ndarray, np.ndarray, np.ndarray]:
    """Shape, dense, ids and labels of `write`."""
    values = json.loads((folder / "shape.json").read_text())
    shape = Shape(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return shape, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("dense", "sparse", "label"))

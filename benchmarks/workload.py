"""Shapes of models and batches of random ids, the same for every contestant. NumPy only: peers import it, too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shape:
    """A DLRM.

    Args:
        rows: Rows of each table.
        dim: Width of all tables.
        n_dense: Dense features.
        bottom: Widths of the bottom MLP.
        top: Widths of the top MLP.
        hotness: Ids an example has for each table; one if empty. The contestants know no other.
        interaction: `"dot"`, `"cat"` or `"cross"`, as in `kd.models.DLRM`. The contestants know no other than `"dot"`.
        cross_layers, projection_dim: Of `"cross"`.
    """

    rows: tuple[int, ...]
    dim: int = 16
    n_dense: int = 13
    bottom: tuple[int, ...] = (512, 256, 64, 16)
    top: tuple[int, ...] = (512, 256, 1)
    hotness: tuple[int, ...] = ()
    interaction: str = "dot"
    cross_layers: int = 0
    projection_dim: int | None = None

    def schema(self) -> Any:
        """The columns, as `kd.Schema`."""
        from keras_dlrm import Categorical, Schema

        hotness = self.hotness or (1,) * len(self.rows)
        columns = [Categorical(f"C{i}", n, hotness=h) for i, (n, h) in enumerate(zip(self.rows, hotness, strict=True))]
        return Schema(dense=[f"I{i}" for i in range(self.n_dense)], categorical=columns)

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in float32."""
        return 4 * self.dim * sum(self.rows)

    @property
    def ids(self) -> int:
        """Ids of an example."""
        return sum(self.hotness) if self.hotness else len(self.rows)

    @property
    def top_inputs(self) -> int:
        """Width of what enters the top MLP."""
        vectors = len(self.rows) + 1
        return self.dim + vectors * (vectors - 1) // 2 if self.interaction == "dot" else vectors * self.dim

    @property
    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each Dense layer."""
        bottom, top = (self.n_dense, *self.bottom), (self.top_inputs, *self.top)
        return [*zip(bottom, bottom[1:], strict=False), *zip(top, top[1:], strict=False)]

    @property
    def weights(self) -> int:
        """Weights besides the tables."""
        width, rank = self.top_inputs, self.projection_dim
        cross = (2 * width * rank if rank else width * width) + width
        layers = self.cross_layers if self.interaction == "cross" else 0
        return sum((n + 1) * m for n, m in self.products) + layers * cross


SHAPES = {
    "kaggle": Shape(KAGGLE_ROWS),
    "kaggle-1e-3": Shape(tuple(max(3, round(n / 1000)) for n in KAGGLE_ROWS)),
}


def draw_ids(rng: np.random.Generator, shape: Shape, rows: int, distribution: str) -> np.ndarray:
    """Ids, int32 (rows, Σ hotness), distributed as `write` says."""
    sizes = np.repeat(shape.rows, shape.hotness or 1)
    ids = np.empty((rows, len(sizes)), np.int32)
    for column, size in enumerate(sizes):
        u = rng.random(rows)
        drawn = (size + 1.0) ** u - 1.0 if distribution == "zipf" else size * u
        ids[:, column] = np.minimum(drawn.astype(np.int64), size - 1)
    return ids


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
    np.save(folder / "sparse.npy", draw_ids(rng, shape, rows, distribution))
    np.save(folder / "dense.npy", rng.random((rows, shape.n_dense), dtype=np.float32))
    np.save(folder / "label.npy", rng.integers(0, 2, rows).astype(np.float32))
    (folder / "shape.json").write_text(json.dumps(dataclasses.asdict(shape)))


def read(folder: Path) -> tuple[Shape, np.ndarray, np.ndarray, np.ndarray]:
    """Shape, dense, ids and labels of `write`."""
    found = json.loads((folder / "shape.json").read_text())
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Shape(**values), *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("dense", "sparse", "label"))

"""Published models as data: shapes, optimizers and batch sizes, each able to build itself at a smaller scale."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_dlrm.data.synthetic import CRITEO_KAGGLE_ROWS
from keras_dlrm.schema.schema import Categorical, Dense, Schema

_TERABYTE_10M_ROWS = (
    9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10, 2208, 11156, 122, 4, 970, 14,
    9994222, 7267859, 9946608, 415421, 12420, 101, 36,
)  # fmt: skip
_TERABYTE_40M_ROWS = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208, 11938, 155, 4, 976, 14,
    39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip
_MULTI_HOT_ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209, 11938, 155, 4, 976, 14,
    40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
_MULTI_HOT = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model and how it was trained.

    Attributes:
        name: Key in `PRESETS`.
        source: Where it was published.
        rows: Rows of the 26 tables.
        hotness: Ids per column.
        model: Arguments of `DLRM` besides the schema.
        optimizer: Name of the rule, for dense parameters and tables.
        optimizer_options: Its arguments.
        batch_size: Global batch size.
        schedule: Arguments of `WarmupHoldDecay` besides the rate; empty for a constant rate.
    """

    name: str
    source: str
    rows: tuple[int, ...]
    model: dict[str, Any]
    optimizer: str
    optimizer_options: dict[str, float]
    batch_size: int
    hotness: tuple[int, ...] = (1,) * 26
    schedule: dict[str, int] = dataclasses.field(default_factory=dict)

    def schema(self, table_scale: float = 1.0) -> Schema:
        """Criteo's 13 dense and 26 sparse columns.

        Args:
            table_scale: Factor on each table's rows, in (0, 1]; at least 3 rows are kept, or all there are.
        """
        if not 0 < table_scale <= 1:
            raise ValueError(f"preset {self.name}: table_scale={table_scale!r} must be in (0, 1].")
        return Schema(
            dense=[Dense(f"I{i + 1}", transform="log1p") for i in range(13)],
            categorical=[
                Categorical(f"C{i + 1}", max(min(3, n), round(n * table_scale)), hotness=h)
                for i, (n, h) in enumerate(zip(self.rows, self.hotness, strict=True))
            ],
        )

    def build(self, table_scale: float = 1.0, seed: int | None = None, compile: bool = True) -> Any:
        """The model, compiled as published unless `compile` is false.

        Args:
            table_scale: Factor on each table's rows, in (0, 1].
            seed: Seed of the initial weights.
            compile: Whether to compile with the published optimizer.
        """
        from keras_dlrm.models.dlrm import DLRM

        model = DLRM(self.schema(table_scale), seed=seed, **self.model)
        if compile:
            model.compile(optimizer=self.make_optimizer(), loss="binary_crossentropy", metrics=["auc"])
        return model

    def make_optimizer(self) -> Any:
        """The published optimizer with its schedule."""
        from keras_dlrm.embeddings.rules.follow import RULES
        from keras_dlrm.schedules import WarmupHoldDecay

        options: dict[str, Any] = dict(self.optimizer_options)
        if self.schedule:
            options["learning_rate"] = WarmupHoldDecay(options["learning_rate"], **self.schedule)
        return RULES[self.optimizer](**options)


_ALL = (
    Preset(
        "criteo_kaggle",
        "facebookresearch/dlrm, bench/dlrm_s_criteo_kaggle.sh",
        CRITEO_KAGGLE_ROWS,
        {"embedding_dim": 16, "bottom_mlp": [512, 256, 64, 16], "top_mlp": [512, 256, 1]},
        "sgd",
        {"learning_rate": 0.1},
        batch_size=128,
    ),
    Preset(
        "criteo_terabyte",
        "facebookresearch/dlrm, bench/dlrm_s_criteo_terabyte.sh (max-ind-range 10M, sub-sample 0.875)",
        _TERABYTE_10M_ROWS,
        {"embedding_dim": 64, "bottom_mlp": [512, 256, 64], "top_mlp": [512, 512, 256, 1]},
        "sgd",
        {"learning_rate": 0.1},
        batch_size=2048,
    ),
    Preset(
        "mlperf_v1",
        "MLPerf training v0.7–v2.1, DLRM (max-ind-range 40M)",
        _TERABYTE_40M_ROWS,
        {"embedding_dim": 128, "bottom_mlp": [512, 256, 128], "top_mlp": [1024, 1024, 512, 256, 1]},
        "sgd",
        {"learning_rate": 1.0},
        batch_size=2048,
    ),
    Preset(
        "mlperf_dcnv2",
        "MLPerf training v3.0, DLRM-DCNv2",
        _MULTI_HOT_ROWS,
        {
            "embedding_dim": 128,
            "bottom_mlp": [512, 256, 128],
            "top_mlp": [1024, 1024, 512, 256, 1],
            "interaction": "cross",
            "cross_layers": 3,
            "projection_dim": 512,
        },
        "adagrad",
        {"learning_rate": 0.005, "epsilon": 1e-8},
        batch_size=65536,
        hotness=_MULTI_HOT,
    ),
)
#: The published models by name: `PRESETS["criteo_kaggle"].build(table_scale=0.001)`.
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

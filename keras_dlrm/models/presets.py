"""Published models as data: shapes, optimizers and batch sizes."""

import dataclasses
from typing import Any

from keras_dlrm.embeddings.rules.follow import RULES
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schedules import WarmupHoldDecay
from keras_dlrm.schema import criteo
from keras_dlrm.schema.schema import Schema


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
        return criteo.criteo_schema([max(min(3, n), round(n * table_scale)) for n in self.rows], self.hotness)

    def build(self, table_scale: float = 1.0, seed: int | None = None, compile: bool = True) -> Any:
        """The model, compiled as published unless `compile` is false.

        Args:
            table_scale: Factor on each table's rows, in (0, 1].
            seed: Seed of the initial weights.
            compile: Whether to compile with the published optimizer.
        """
        model = DLRM(self.schema(table_scale), seed=seed, **self.model)
        if compile:
            model.compile(optimizer=self.make_optimizer(), loss="binary_crossentropy", metrics=["auc"])
        return model

    def make_optimizer(self) -> Any:
        """The published optimizer with its schedule."""
        options: dict[str, Any] = dict(self.optimizer_options)
        if self.schedule:
            options["learning_rate"] = WarmupHoldDecay(options["learning_rate"], **self.schedule)
        return RULES[self.optimizer](**options)


_CRITEO = "facebookresearch/dlrm, bench/dlrm_s_criteo_"
_SMALL = {"embedding_dim": 16, "bottom_mlp": [512, 256, 64, 16], "top_mlp": [512, 256, 1]}
_MIDDLE = {"embedding_dim": 64, "bottom_mlp": [512, 256, 64], "top_mlp": [512, 512, 256, 1]}
_LARGE = {"embedding_dim": 128, "bottom_mlp": [512, 256, 128], "top_mlp": [1024, 1024, 512, 256, 1]}
_CROSS = {**_LARGE, "interaction": "cross", "cross_layers": 3, "projection_dim": 512}
_ALL = (
    Preset(
        "criteo_kaggle", f"{_CRITEO}kaggle.sh", criteo.CRITEO_KAGGLE_ROWS, _SMALL,
        "sgd", {"learning_rate": 0.1}, batch_size=128,
    ),
    Preset(
        "criteo_terabyte", f"{_CRITEO}terabyte.sh (max-ind-range 10M, sub-sample 0.875)",
        criteo.CRITEO_TERABYTE_10M_ROWS, _MIDDLE, "sgd", {"learning_rate": 0.1}, batch_size=2048,
    ),
    Preset(
        "mlperf_v1", "MLPerf training v0.7–v2.1, DLRM (max-ind-range 40M)", criteo.CRITEO_TERABYTE_40M_ROWS, _LARGE,
        "sgd", {"learning_rate": 1.0}, batch_size=2048,
    ),
    Preset(
        "mlperf_dcnv2", "MLPerf training v3.0, DLRM-DCNv2", criteo.MLPERF_V2_ROWS, _CROSS,
        "adagrad", {"learning_rate": 0.005, "epsilon": 1e-8}, batch_size=65536, hotness=criteo.MLPERF_V2_HOTNESS,
    ),
)  # fmt: skip
#: The published models by name: `PRESETS["criteo_kaggle"].build(table_scale=0.001)`.
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

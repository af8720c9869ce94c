"""Published models as data: shapes, optimizers and batch sizes."""

import dataclasses
from typing import Any

from keras_dlrm.embeddings.rules.follow import RULES
from keras_dlrm.models.auto_int import AutoInt
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.deep_fm import DeepFM, WideDeep
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.models.final_mlp import FinalMLP
from keras_dlrm.models.mask_net import MaskNet
from keras_dlrm.models.rank_mixer import RankMixer
from keras_dlrm.models.wukong import Wukong
from keras_dlrm.models.x_deep_fm import XDeepFM
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
        model: Arguments of the model besides the schema.
        optimizer: Name of the rule, for dense parameters and tables.
        optimizer_options: Its arguments.
        batch_size: Global batch size.
        schedule: Arguments of `WarmupHoldDecay` besides the rate; empty for a constant rate.
        kind: Class of the model.
        embedding_l2: L2 factor of the tables' rows.
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
    kind: type[ClickModel] = DLRM
    embedding_l2: float = 0.0

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
        model: Any = self.kind(self.schema(table_scale), seed=seed, **self.model)
        if compile:
            rows = self.make_optimizer(l2=self.embedding_l2) if self.embedding_l2 else None
            model.compile(self.make_optimizer(), "binary_crossentropy", metrics=["auc"], embedding_optimizer=rows)
        return model

    def make_optimizer(self, **further: Any) -> Any:
        """The published optimizer with its schedule, and further options of its rule."""
        options: dict[str, Any] = {**self.optimizer_options, **further}
        if self.schedule:
            options["learning_rate"] = WarmupHoldDecay(options["learning_rate"], **self.schedule)
        return RULES[self.optimizer](**options)


_CRITEO = "facebookresearch/dlrm, bench/dlrm_s_criteo_"
_SMALL = {"embedding_dim": 16, "bottom_mlp": [512, 256, 64, 16], "top_mlp": [512, 256, 1]}
_MIDDLE = {"embedding_dim": 64, "bottom_mlp": [512, 256, 64], "top_mlp": [512, 512, 256, 1]}
_LARGE = {"embedding_dim": 128, "bottom_mlp": [512, 256, 128], "top_mlp": [1024, 1024, 512, 256, 1]}
_CROSS = {**_LARGE, "interaction": "cross", "cross_layers": 3, "projection_dim": 512}
# Of https://github.com/reczoo/BARS/tree/main/docs/CTR/leaderboard, whose tables have other rows.
_BARS: dict[str, Any] = {"embedding_dim": 10, "deep_mlp": [400, 400, 400], "batch_norm": True, "dropout": 0.1}
_MASKS: dict[str, Any] = {"structure": "serial", "blocks": 3, "block_units": 400, "mask_units": 78, "dropout": 0.2}
_GATES: dict[str, Any] = {"second_mlp": [1000], "gate_mlp": [800], "heads": 200, "dropout": 0.2}


def _with_adam(kind: type[ClickModel], name: str, source: str, batch_size: int = 4096, l2: float = 1e-5, **model: Any) -> Preset:
    """A model on tables of Criteo Kaggle's rows, trained with Adam at a rate of .001."""
    rows, options = criteo.CRITEO_KAGGLE_ROWS, {"learning_rate": 0.001}
    return Preset(name, source, rows, model, "adam", options, batch_size, kind=kind, embedding_l2=l2)


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
    _with_adam(WideDeep, "bars_wide_deep", "BARS, WideDeep_criteo_x1", **_BARS),
    _with_adam(DeepFM, "bars_deep_fm", "BARS, DeepFM_criteo_x1", **_BARS),
    _with_adam(AutoInt, "bars_auto_int", "BARS, AutoInt+_criteo_x1", **_BARS, attention_layers=3, heads=2, head_dim=128),
    _with_adam(MaskNet, "bars_mask_net", "BARS, MaskNet_criteo_x1", **{**_BARS, **_MASKS, "batch_norm": False, "deep_mlp": []}),
    _with_adam(FinalMLP, "bars_final_mlp", "BARS, FinalMLP_criteo_x1; dropout is .3 in its second MLP", **{**_BARS, **_GATES}),
    _with_adam(
        XDeepFM, "x_deep_fm", "Lian et al. 2018, section 4.1, Criteo", l2=1e-4,
        embedding_dim=10, maps=[200, 200, 200], deep_mlp=[400, 400], dropout=0.5,
    ),
    _with_adam(
        Wukong, "fuxictr_wukong", "FuxiCTR, WuKong_default", 10_000, 0.0, embedding_dim=64, wukong_layers=8, fm_vectors=40,
        linear_vectors=40, rank=8, block_mlp=[200, 200], deep_mlp=[32, 32], dropout=0.2,
    ),
    _with_adam(
        RankMixer, "rank_mixer_100m", "Zhu et al. 2025, RankMixer-100M; the optimizer is assumed", 4096, 0.0,
        embedding_dim=16, tokens=16, token_dim=768, blocks=2,
    ),
)  # fmt: skip
#: The published models by name: `PRESETS["criteo_kaggle"].build(table_scale=0.001)`.
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

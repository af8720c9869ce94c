"""The published hyperparameters, counted without allocating the tables."""

import numpy as np
import pytest

from keras_dlrm.models import DLRM, PRESETS

pytestmark = pytest.mark.neutral


def mlp(widths):
    return sum(n * m + m for n, m in zip(widths[:-1], widths[1:], strict=True))


def normed(widths):
    """An MLP with batch normalization of its hidden layers, of which gamma and beta are trained, and mean and variance not."""
    return mlp(widths) + 4 * sum(widths[1:-1])


def factors(d):
    """Vectors of 13 dense columns: a factor and a bias each; and the linear terms with their bias."""
    return 13 * 2 * d


FIELDS = 13 + 26
DEEP = [400, 400, 400]
# By hand, without the tables; D is the width of the vectors.
OTHERS = {
    "bars_wide_deep": lambda d: factors(d) + 14 + normed([FIELDS * d, *DEEP, 1]),
    "bars_deep_fm": lambda d: factors(d) + 14 + normed([FIELDS * d, *DEEP, 1]),
    "bars_auto_int": lambda d: (
        factors(d) + 4 * (d * 256 + 256 * 256 + 256 * 256) + FIELDS * 256 + 1 + normed([FIELDS * d, *DEEP, 1])
    ),
    "bars_mask_net": lambda d: (
        factors(d) + 2 * d + mlp([390, 78, 390]) + 390 * 400 + 800 + 2 * (mlp([390, 78, 400]) + 400 * 400 + 800) + 401
    ),
    "bars_final_mlp": lambda d: (
        factors(d) + 2 * (d + mlp([d, 800, 390])) + mlp([390, *DEEP]) + mlp([390, 1000]) + 4 * (1200 + 1000)
        + 400 + 1000 + 400 * 1000 // 200 + 1
    ),
    "x_deep_fm": lambda d: (
        factors(d) + 14 + FIELDS * FIELDS * 200 + 2 * 200 * FIELDS * 200 + 601 + mlp([FIELDS * d, 400, 400, 1])
    ),
    "fuxictr_wukong": lambda d: (
        factors(d) + FIELDS * (8 + 40 + 80) + 2 * 8 * FIELDS + mlp([8 * FIELDS, 200, 200, 40 * d]) + 2 * d
        + 7 * (80 * (8 + 40) + 2 * 640 + mlp([640, 200, 200, 40 * d]) + 2 * d) + mlp([80 * d, 32, 32, 1])
    ),
    "rank_mixer_100m": lambda d: (
        factors(d) + 16 * (39 * 768 + 768) + 2 * (16 * mlp([768, 4 * 768, 768]) + 4 * 768) + 769
    ),
}  # fmt: skip
# Whose rows have one number more, of first order.
WITH_FIRST_ORDER = ("bars_wide_deep", "bars_deep_fm", "x_deep_fm")


def dense_parameters(preset):
    """By hand: 13 dense features, 26 tables, the reference's architectures."""
    d = preset.model["embedding_dim"]
    if preset.kind is not DLRM:
        return OTHERS[preset.name](d)
    bottom, top = preset.model["bottom_mlp"], preset.model["top_mlp"]
    if preset.model.get("interaction") == "cross":
        n, r = 27 * d, preset.model["projection_dim"]
        return mlp([13, *bottom]) + preset.model["cross_layers"] * (2 * n * r + n) + mlp([n, *top])
    return mlp([13, *bottom]) + mlp([d + 27 * 26 // 2, *top])


@pytest.mark.parametrize(
    "name, rows, dim, hot, dense",
    [
        ("criteo_kaggle", 33_762_577, 16, 26, 475_985),
        ("criteo_terabyte", None, 64, 26, None),
        ("mlperf_v1", 187_767_399, 128, 26, None),
        ("mlperf_dcnv2", 204_184_588, 128, 214, None),
    ],
)
def test_sizes_are_the_published_ones(name, rows, dim, hot, dense):
    preset = PRESETS[name]
    schema = preset.schema()
    assert (schema.n_dense, len(schema.categorical), schema.width) == (13, 26, hot)
    assert preset.model["embedding_dim"] == dim and preset.name == name
    assert rows is None or sum(schema.table_sizes.values()) == rows
    assert dense is None or dense_parameters(preset) == dense


def test_kaggle_has_540_million_table_parameters():
    preset = PRESETS["criteo_kaggle"]
    assert sum(preset.rows) * preset.model["embedding_dim"] == 540_201_232


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_scaled_model_has_all_dense_parameters_and_fewer_rows(name):
    preset = PRESETS[name]
    scale = 2e-6
    model = preset.build(table_scale=scale, seed=0)
    sizes = {f"C{i + 1}": max(min(3, n), round(n * scale)) for i, n in enumerate(preset.rows)}
    assert model.schema.table_sizes == sizes
    width = preset.model["embedding_dim"] + (name in WITH_FIRST_ORDER)
    assert model.count_params() == sum(sizes.values()) * width + dense_parameters(preset)
    rate = float(np.asarray(model.optimizer.learning_rate))
    assert rate == pytest.approx(preset.optimizer_options["learning_rate"])
    assert type(model.optimizer.rows) is type(model.optimizer.dense) and model.optimizer.rows.name == preset.optimizer


def test_published_optimizers():
    assert PRESETS["mlperf_dcnv2"].make_optimizer().get_config()["epsilon"] == 1e-8
    assert [preset.batch_size for preset in list(PRESETS.values())[:4]] == [128, 2048, 2048, 65536]
    assert PRESETS["bars_deep_fm"].build(1e-6).optimizer.rows.l2 == 1e-5


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="table_scale"):
        PRESETS["criteo_kaggle"].schema(scale)

"""The published hyperparameters, counted without allocating the tables."""

import numpy as np
import pytest

from keras_dlrm.models import PRESETS

pytestmark = pytest.mark.neutral


def mlp(widths):
    return sum(n * m + m for n, m in zip(widths[:-1], widths[1:], strict=True))


def dense_parameters(preset):
    """By hand: 13 dense features, 26 tables, the reference's architectures."""
    d, bottom, top = preset.model["embedding_dim"], preset.model["bottom_mlp"], preset.model["top_mlp"]
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


@pytest.mark.parametrize("name", PRESETS)
def test_a_scaled_model_has_all_dense_parameters_and_fewer_rows(name):
    preset = PRESETS[name]
    scale = 2e-6
    model = preset.build(table_scale=scale, seed=0)
    sizes = {f"C{i + 1}": max(min(3, n), round(n * scale)) for i, n in enumerate(preset.rows)}
    assert model.schema.table_sizes == sizes
    assert model.count_params() == sum(sizes.values()) * preset.model["embedding_dim"] + dense_parameters(preset)
    rate = float(np.asarray(model.optimizer.learning_rate))
    assert rate == pytest.approx(preset.optimizer_options["learning_rate"])
    assert type(model.optimizer.rows) is type(model.optimizer.dense) and model.optimizer.rows.name == preset.optimizer


def test_published_optimizers():
    assert PRESETS["mlperf_dcnv2"].make_optimizer().get_config()["epsilon"] == 1e-8
    assert [PRESETS[n].batch_size for n in PRESETS] == [128, 2048, 2048, 65536]


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="table_scale"):
        PRESETS["criteo_kaggle"].schema(scale)

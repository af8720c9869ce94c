"""Every model by name: how it is made, its parameters counted by hand, its logits in NumPy; a new model is an entry here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from helpers.numpy_models import (
    Parts,
    numpy_auto_int,
    numpy_dcn,
    numpy_dcn_v3,
    numpy_deep_fm,
    numpy_dlrm,
    numpy_factorization,
    numpy_final_mlp,
    numpy_fm,
    numpy_linear,
    numpy_mask_net,
    numpy_neu_mf,
    numpy_nfm,
    numpy_rank_mixer,
    numpy_two_tower,
    numpy_wide_deep,
    numpy_wukong,
    numpy_x_deep_fm,
    parts_of_dcn_v3,
)
from keras_dlrm.layers import FieldAttention
from keras_dlrm.models import (
    DCN,
    DLRM,
    FM,
    GDCN,
    NFM,
    AutoInt,
    DCNv2,
    DCNv3,
    DeepFM,
    FinalMLP,
    LogisticRegression,
    MaskNet,
    MatrixFactorization,
    NeuMF,
    RankMixer,
    TwoTower,
    WideDeep,
    Wukong,
    XDeepFM,
)
from keras_dlrm.schema.schema import Categorical, Dense, Schema
from keras_dlrm.tasks import PLE, MMoE, SharedBottom

SPARSE = [Categorical("C1", 7), Categorical("tags", 5, hotness=3, combiner="mean"), Categorical("C3", 4)]
SCHEMA = Schema(dense=["I1", "I2"], categorical=SPARSE)
WITHOUT_DENSE = Schema(categorical=SPARSE)
WITHOUT_SPARSE = Schema(dense=["I1", "I2"])
ENCODED = Schema(dense=[Dense("I1", encoding="piecewise_linear"), Dense("I2", encoding="periodic")], categorical=SPARSE)
# Encodings of width D: 256 bins, and sines and cosines of 16 frequencies; each with a bias and a vector for missing values.
ENCODINGS = {d: (256 * d + 2 * d) + (32 * d + 2 * d + 16) for d in (4, 1)}
# Of two dense columns without one: a factor and a bias each.
LINEAR = 2 * 2 * 4
# Tables of 16 rows of width 4. Bottom MLP 2-6-4, top MLP n-5-1, deep network n-6-5.
TABLES, BOTTOM = 16 * 4, (2 * 6 + 6) + (6 * 4 + 4)


def top(n):
    return (n * 5 + 5) + (5 + 1)


def deep(n):
    return (n * 6 + 6) + (6 * 5 + 5)


@keras.saving.register_keras_serializable("tests")
class PairSum(keras.layers.Layer):
    """An interaction of the user's own: the sum of all pairs' products, element by element, weighted by a layer within."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weight = keras.layers.Dense(3, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(seed=1))

    def call(self, vectors):
        pairs = keras.ops.square(keras.ops.sum(vectors, axis=1)) - keras.ops.sum(keras.ops.square(vectors), axis=1)
        return self.weight(0.5 * pairs)


def dlrm(schema=SCHEMA, **options):
    bottom = [6, 4] if schema.dense else None
    return DLRM(schema, 4, bottom, [5, 1], **{"seed": 1, **options})


def cross(kind, schema=SCHEMA, **options):
    return kind(schema, 4, **{"cross_layers": 2, "deep_mlp": [6, 5], "seed": 1, **options})


class Case(NamedTuple):
    """A model as a function of options that all models have, its parameters counted by hand, and its logits in NumPy."""

    make: Callable[..., Any]
    count: int
    numpy: Callable[..., Any]
    parts: Callable[..., Any] | None = None  # logits of its parts, each of which has a loss of its own


def field(kind, of_schema=SCHEMA, **own):
    return lambda schema=of_schema, **options: kind(schema, 4, **{"seed": 1, **own, **options})


def two_tower(schema=SCHEMA, **options):
    columns = [*schema.dense_names, *schema.categorical_names]
    user = [name for name in ("I1", "C1", "tags") if name in columns]
    item = [name for name in columns if name not in user]
    own = {"output_dim": 3, "user_mlp": [6], "item_mlp": [], "temperature": 0.5, "seed": 1}
    return TwoTower(schema, user, item, 4, **{**own, **options})


def labeled(make):
    """A function that makes the model for two labels."""
    return lambda schema=SCHEMA, **options: make(Schema(schema.dense, schema.categorical, ["click", "like"]), **options)


# With a bias and weights of both dense columns.
FIRST_ORDER = 16 + 3
FLAT = 5 * 4  # five vectors of width 4
MODELS = {
    "dlrm dot": Case(lambda **k: dlrm(**k), TABLES + BOTTOM + top(4 + 6), numpy_dlrm),
    "dlrm dot with self": Case(lambda **k: dlrm(self_interaction=True, **k), TABLES + BOTTOM + top(4 + 10), numpy_dlrm),
    "dlrm cat": Case(lambda **k: dlrm(interaction="cat", **k), TABLES + BOTTOM + top(16), numpy_dlrm),
    "dlrm cat and dot with first order": Case(
        lambda **k: dlrm(interaction="cat_dot", first_order=True, **k), 16 * 5 + BOTTOM + top(16 + 6), numpy_dlrm
    ),
    "dlrm cross": Case(
        lambda **k: dlrm(interaction="cross", cross_layers=2, projection_dim=3, **k),
        TABLES + BOTTOM + 2 * (2 * 16 * 3 + 16) + top(16), numpy_dlrm,
    ),
    "dlrm cross alongside dense": Case(
        lambda **k: dlrm(interaction="cross", cross_layers=1, projection_dim=None, concat_dense=True, **k),
        TABLES + BOTTOM + 16 * 16 + 16 + top(4 + 16), numpy_dlrm,
    ),
    "dlrm own layer": Case(lambda **k: dlrm(interaction=PairSum(), **k), TABLES + BOTTOM + 4 * 3 + top(3), numpy_dlrm),
    "dlrm own layer alongside dense": Case(
        lambda **k: dlrm(interaction=PairSum(), concat_dense=True, **k), TABLES + BOTTOM + 4 * 3 + top(4 + 3), numpy_dlrm
    ),
    "dlrm attention": Case(
        lambda **k: dlrm(interaction=FieldAttention(2, 3, seed=1), **k),
        TABLES + BOTTOM + 4 * 4 * 6 + top(4 * 6), numpy_dlrm,
    ),
    "dlrm dot without dense": Case(lambda **k: dlrm(WITHOUT_DENSE, **k), TABLES + top(3), numpy_dlrm),
    "dlrm cat without dense": Case(lambda **k: dlrm(WITHOUT_DENSE, interaction="cat", **k), TABLES + top(12), numpy_dlrm),
    "dlrm cat without sparse": Case(lambda **k: dlrm(WITHOUT_SPARSE, interaction="cat", **k), BOTTOM + top(4), numpy_dlrm),
    "dlrm encoded": Case(lambda **k: dlrm(ENCODED, **k), TABLES + BOTTOM + ENCODINGS[4] + top(4 + 15), numpy_dlrm),
    "logistic regression": Case(
        lambda schema=SCHEMA, **k: LogisticRegression(schema, **{"seed": 1, **k}), 16 + 2 + 1, numpy_linear
    ),
    "logistic regression encoded": Case(
        lambda **k: LogisticRegression(ENCODED, **{"seed": 1, **k}), 16 + 2 + 1 + ENCODINGS[1], numpy_linear
    ),
    "fm": Case(field(FM), TABLES + LINEAR + FIRST_ORDER, numpy_fm),
    "fm encoded": Case(field(FM, ENCODED), TABLES + ENCODINGS[4] + FIRST_ORDER, numpy_fm),
    "fm without dense": Case(field(FM, WITHOUT_DENSE), TABLES + 16 + 2, numpy_fm),
    "fm without sparse": Case(field(FM, WITHOUT_SPARSE), LINEAR + 3, numpy_fm),
    "fm without first order": Case(field(FM, first_order=False), TABLES + LINEAR, numpy_fm),
    "wide and deep": Case(
        field(WideDeep, deep_mlp=[6, 5]), TABLES + LINEAR + FIRST_ORDER + deep(FLAT) + 6, numpy_wide_deep
    ),
    "nfm": Case(field(NFM, deep_mlp=[6, 5]), TABLES + LINEAR + FIRST_ORDER + deep(4) + 6, numpy_nfm),
    "deep fm": Case(field(DeepFM, deep_mlp=[6, 5]), TABLES + LINEAR + FIRST_ORDER + deep(FLAT) + 6, numpy_deep_fm),
    "xdeepfm": Case(
        field(XDeepFM, maps=[3, 2], deep_mlp=[6, 5]),
        TABLES + LINEAR + FIRST_ORDER + (5 * 5 * 3 + 3 * 5 * 2) + (5 + 1) + deep(FLAT) + 6, numpy_x_deep_fm,
    ),
    "autoint": Case(
        field(AutoInt, attention_layers=2, heads=2, head_dim=3, deep_mlp=[6, 5]),
        TABLES + LINEAR + 4 * (4 * 6 + 6 * 6) + (5 * 6 + 1) + deep(FLAT) + 6, numpy_auto_int,
    ),
    "masknet parallel": Case(
        field(MaskNet, blocks=2, block_units=3, mask_units=7, deep_mlp=[6, 5]),
        TABLES + LINEAR + 8 + 2 * (20 * 7 + 7 + 7 * 20 + 20 + 20 * 3 + 6) + deep(6) + 6, numpy_mask_net,
    ),
    "masknet serial": Case(
        field(MaskNet, structure="serial", blocks=2, block_units=3, mask_units=7, deep_mlp=[6, 5], first_order=True),
        TABLES + LINEAR + FIRST_ORDER + 8 + (20 * 7 + 7 + 7 * 20 + 20 + 20 * 3 + 6) + (20 * 7 + 7 + 7 * 3 + 3 + 3 * 3 + 6)
        + deep(3) + 6, numpy_mask_net,
    ),
    "finalmlp": Case(
        field(FinalMLP, deep_mlp=[6, 4], second_mlp=[8], gate_mlp=[3], contexts=[["tags"], []], heads=2),
        TABLES + LINEAR + 4 + (4 * 3 + 3 + 3 * 20 + 20) + (4 * 3 + 3 + 3 * 20 + 20) + (20 * 6 + 6 + 6 * 4 + 4) + (20 * 8 + 8)
        + (4 + 8 + 4 * 4 + 1), numpy_final_mlp,
    ),
    "finalmlp without gates": Case(
        field(FinalMLP, WITHOUT_DENSE, deep_mlp=[6], gate_mlp=None), TABLES + 2 * (12 * 6 + 6) + (12 + 36 + 1), numpy_final_mlp
    ),
    "gdcn": Case(lambda **k: cross(GDCN, **k), TABLES + 2 * (2 * 14 * 14 + 14) + deep(14) + (5 + 1), numpy_dcn),
    "gdcn parallel without dense": Case(
        lambda **k: cross(GDCN, WITHOUT_DENSE, structure="parallel", **k),
        TABLES + 2 * (2 * 12 * 12 + 12) + deep(12) + (12 + 5 + 1), numpy_dcn,
    ),
    "dcnv3": Case(
        field(DCNv3, exponential_layers=2, linear_layers=1),
        TABLES + LINEAR + 3 * (20 * 10 + 20 + 20) + 2 * 21, numpy_dcn_v3, parts_of_dcn_v3,
    ),
    "wukong": Case(
        field(Wukong, wukong_layers=2, fm_vectors=2, linear_vectors=1, rank=2, block_mlp=[7], deep_mlp=[6, 5]),
        TABLES + LINEAR + (5 * 2 + 5 * 1 + 5 * 3 + 20 + (10 * 7 + 7 + 7 * 8 + 8) + 8)
        + (3 * 2 + 3 * 1 + 12 + (6 * 7 + 7 + 7 * 8 + 8) + 8) + deep(12) + 6, numpy_wukong,
    ),
    "rankmixer": Case(
        field(RankMixer, tokens=3, token_dim=6, blocks=2, ratio=2, first_order=True),
        TABLES + LINEAR + FIRST_ORDER + 3 * (7 * 6 + 6) + 2 * (3 * (6 * 12 + 12 + 12 * 6 + 6) + 24) + 7, numpy_rank_mixer,
    ),
    "matrix factorization": Case(
        field(MatrixFactorization, Schema(categorical=[SPARSE[0], SPARSE[2]])), 11 * 5 + 2, numpy_factorization
    ),
    "svd++": Case(field(MatrixFactorization, WITHOUT_DENSE, implicit="tags"), TABLES + 16 + 2, numpy_factorization),
    "neumf": Case(
        field(NeuMF, Schema(categorical=[SPARSE[0], SPARSE[2]]), product_dim=1, deep_mlp=[6, 5]),
        11 * 4 + deep(6) + (1 + 5 + 1), numpy_neu_mf,
    ),
    "twotower": Case(two_tower, TABLES + LINEAR + (12 * 6 + 6 + 6 * 3 + 3) + (8 * 3 + 3), numpy_two_tower),
    "twotower of sums": Case(
        lambda **k: two_tower(output_dim=None, user_mlp=[], normalize=False, **k), TABLES + LINEAR, numpy_two_tower
    ),
    "mmoe in dlrm": Case(
        labeled(lambda s, **k: dlrm(s, first_order=True, tasks=MMoE([2], 2, [3]), **k)),
        16 * 6 + BOTTOM + (10 * 5 + 5) + 2 * (5 * 3 + 3) + 5 * 2 * 2 + 2 * (3 * 2 + 2 + 2 + 1), numpy_dlrm,
    ),
    "ple in dcnv2": Case(
        labeled(lambda s, **k: cross(DCNv2, s, structure="parallel", tasks=PLE([], 1, 1, [3], 2), **k)),
        TABLES + 2 * (14 * 14 + 14) + deep(14) + 3 * (19 * 3 + 3) + 19 * (2 + 2 + 3) + 3 * (3 * 3 + 3) + 3 * (2 + 2) + 2 * 4,
        numpy_dcn,
    ),
    "towers in deep fm": Case(
        labeled(lambda s, **k: DeepFM(s, 4, deep_mlp=[6, 5], tasks=SharedBottom([2]), **{"seed": 1, **k})),
        TABLES + LINEAR + 2 * FIRST_ORDER + deep(FLAT) + 2 * (5 * 2 + 2 + 3), numpy_deep_fm,
    ),
    "labels of autoint": Case(
        labeled(lambda s, **k: AutoInt(s, 4, attention_layers=1, heads=2, head_dim=3, deep_mlp=[6, 5], **{"seed": 1, **k})),
        TABLES + LINEAR + 4 * 4 * 6 + 2 * (5 * 6 + 1) + deep(FLAT) + 2 * 6, numpy_auto_int,
    ),
    "several labels of dcnv3": Case(
        labeled(lambda s, **k: DCNv3(s, 4, exponential_layers=1, linear_layers=1, **{"seed": 1, **k})),
        TABLES + LINEAR + 2 * (20 * 10 + 20 + 20) + 2 * 2 * 21, numpy_dcn_v3, parts_of_dcn_v3,
    ),
    "two labels of logistic regression": Case(
        labeled(lambda s, **k: LogisticRegression(s, **{"seed": 1, **k})), 2 * (16 + 2 + 1), numpy_linear
    ),
    "dcn": Case(lambda **k: cross(DCN, **k), TABLES + 2 * 2 * 14 + deep(14) + (14 + 5 + 1), numpy_dcn),
    "dcn without dense": Case(
        lambda **k: cross(DCN, WITHOUT_DENSE, **k), TABLES + 2 * 2 * 12 + deep(12) + (12 + 5 + 1), numpy_dcn
    ),
    "dcnv2 stacked": Case(lambda **k: cross(DCNv2, **k), TABLES + 2 * (14 * 14 + 14) + deep(14) + (5 + 1), numpy_dcn),
    "dcnv2 parallel": Case(
        lambda **k: cross(DCNv2, structure="parallel", **k), TABLES + 2 * (14 * 14 + 14) + deep(14) + (14 + 5 + 1), numpy_dcn
    ),
    "dcnv2 low rank": Case(
        lambda **k: cross(DCNv2, projection_dim=3, **k), TABLES + 2 * (2 * 14 * 3 + 14) + deep(14) + (5 + 1), numpy_dcn
    ),
    "dcnv2 with first order": Case(
        lambda **k: cross(DCNv2, first_order=True, **k), 16 * 5 + 2 * (14 * 14 + 14) + deep(14) + (5 + 1), numpy_dcn
    ),
    "dcnv2 encoded": Case(
        lambda **k: cross(DCNv2, ENCODED, **k), TABLES + ENCODINGS[4] + 2 * (22 * 22 + 22) + deep(22) + (5 + 1), numpy_dcn
    ),
    "dcnv2 cross only": Case(
        lambda **k: cross(DCNv2, deep_mlp=[], **k), TABLES + 2 * (14 * 14 + 14) + (14 + 1), numpy_dcn
    ),
}  # fmt: skip
#: One entry of each kind of model, by the first word of its name.
KINDS = list({name.split()[0]: name for name in reversed(MODELS)}.values())[::-1]


def numpy_forward(name, model, batch):
    """Logits in float64 from the weights, by the figures of the papers."""
    return MODELS[name].numpy(model, Parts(model, batch))


def data(schema=SCHEMA, rows=10, seed=0):
    rng = np.random.default_rng(seed)
    batch = {}
    if schema.dense:
        batch["dense"] = rng.normal(size=(rows, 2)).astype("float32")
    if schema.categorical:
        # A row has at least one id of each column, and may have fewer than there is room for.
        sizes = [(0 if place == 0 else -1, c.vocabulary_size) for c in schema.categorical for place in range(c.hotness)]
        sparse = np.stack([rng.integers(low, high, rows) for low, high in sizes], 1)
        batch["sparse"] = sparse
    labels = rng.integers(0, 2, (rows, len(schema.labels))).astype("float32")
    if labels.shape[1] == 1:
        return batch, labels[:, 0]
    labels[::3, 1] = np.nan
    return batch, labels


X, Y = data(rows=10)

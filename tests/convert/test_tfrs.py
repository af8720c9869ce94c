"""TFRS's Ranking: its formulas by hand, and its own models, predict what the converted ones predict."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.peers import interpreter, run

from keras_dlrm.convert import from_tfrs

PEER = Path(__file__).parent / "tfrs_peer.py"
DIM, DENSE, ROWS = 4, 3, 6
SIZES = {"b": 5, "a": 9, "c": 6}
draw = np.random.default_rng(0)


class Variable:
    """Numbers, as TensorFlow's variables hand them over."""

    def __init__(self, *shape: int) -> None:
        self._value = draw.normal(size=shape).astype("float32") / 2

    def numpy(self) -> np.ndarray:
        return self._value


class Named:
    """Attributes under the name of a class of TFRS or Keras 2."""

    def __new__(cls, kind: str, **attributes):
        return type(kind, (), {"name": kind.lower(), "built": True, **attributes})()


def function(name):
    return type("function", (), {"__name__": name})()


def dense(n, m, activation, use_bias=True):
    return Named("Dense", kernel=Variable(n, m), bias=Variable(m), use_bias=use_bias, activation=function(activation))


def mlp(*widths, last):
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return Named("MLP", _sublayers=[dense(n, m, last if k == len(pairs) - 1 else "relu") for k, (n, m) in enumerate(pairs)])


def ranking(interaction, width, concat=True, sizes=SIZES, low=None, high=None):
    tables = {name: Named("TableConfig", vocabulary_size=rows, combiner="sum") for name, rows in sizes.items()}
    for name, table in tables.items():
        table.name = name
    configurations = {name: Named("FeatureConfig", table=table, max_sequence_length=0) for name, table in tables.items()}
    lookup = Named("TPUEmbeddingForServing", embedding_tables={t: Variable(sizes[name], DIM) for name, t in tables.items()})
    return Named(
        "Ranking",
        _embedding_layer=Named("TPUEmbedding", _feature_config=configurations, _tpu_embedding=lookup),
        _bottom_stack=low or mlp(DENSE, 7, DIM, last="relu"),
        _top_stack=high or mlp(width, 6, 1, last="sigmoid"),
        _feature_interaction=interaction,
        _concat_dense=concat,
    )


def by_hand(model, x, ids):
    """TFRS's formulas in float64: sparse vectors by name, then the bottom stack's output; the lower triangle."""

    def layer(each, z, last):
        z = z @ each.kernel.numpy().astype("float64") + (each.bias.numpy() if each.use_bias else 0)
        return last(z)

    def relu(z):
        return np.maximum(z, 0)

    low = x.astype("float64")
    for each in model._bottom_stack._sublayers:
        low = layer(each, low, relu)
    tables = {t.name: v.numpy() for t, v in model._embedding_layer._tpu_embedding.embedding_tables.items()}
    vectors = [*(tables[name][ids[name]] for name in sorted(ids)), low]
    interaction = model._feature_interaction
    if type(interaction).__name__ == "DotInteraction":
        count, keep = len(vectors), interaction._self_interaction
        columns = []
        for i in range(count):
            for j in range(count if interaction._skip_gather else i + keep):
                zero = j > i or (j == i and not keep)
                columns.append(0 * low[:, 0] if zero else (vectors[i] * vectors[j]).sum(axis=1))
        z = np.stack(columns, axis=1)
    else:
        first = z = np.concatenate(vectors, axis=1)
        for down, up in steps(interaction.layers[-1]):
            z = first * layer(up, z if down is None else z @ down.kernel.numpy(), lambda v: v) + z
    z = np.concatenate([low, z], axis=1) if model._concat_dense else z
    for each in model._top_stack._sublayers[:-1]:
        z = layer(each, z, relu)
    return layer(model._top_stack._sublayers[-1], z, lambda v: 1 / (1 + np.exp(-v)))


def steps(layer):
    if type(layer).__name__ == "MultiLayerDCN":
        return list(zip(layer._dense_u_kernels, layer._dense_v_kernels, strict=True))
    return [(None, layer._dense) if layer._projection_dim is None else (layer._dense_u, layer._dense_v)]


def dots(itself=False, skip_gather=False):
    return Named("DotInteraction", _self_interaction=itself, _skip_gather=skip_gather)


def crosses(layer):
    return Named("Sequential", layers=[Named("Concatenate"), layer])


def cross(low_rank=None):
    options = {"_diag_scale": 0.0, "_preactivation": function("linear"), "_projection_dim": low_rank}
    if low_rank is None:
        return Named("Cross", _dense=dense(16, 16, "linear"), **options)
    return Named("Cross", _dense_u=dense(16, low_rank, "linear", False), _dense_v=dense(low_rank, 16, "linear"), **options)


def deep():
    u, v = ([dense(n, m, "linear", n > m) for _ in range(2)] for n, m in ((16, 3), (3, 16)))
    return Named("MultiLayerDCN", _dense_u_kernels=u, _dense_v_kernels=v)


@pytest.mark.parametrize(
    "interaction, width, concat",
    [
        (dots(), DIM + 6, True),
        (dots(itself=True), DIM + 10, True),
        (dots(), 6, False),
        (dots(itself=True, skip_gather=True), DIM + 16, True),
        (dots(skip_gather=True), 16, False),
        (crosses(cross()), 16, False),
        (crosses(cross(3)), 16, False),
        (crosses(deep()), 16, False),
        (crosses(cross()), DIM + 16, True),
    ],
    ids=["dot", "itself", "no dense", "skip_gather", "skip_gather alone", "cross", "low rank", "MultiLayerDCN", "beside dense"],
)
def test_predictions_equal_the_formulas(interaction, width, concat):
    theirs = ranking(interaction, width, concat)
    model = from_tfrs(theirs)
    assert model.schema.categorical_names == ("a", "b", "c")
    x = draw.normal(size=(ROWS, DENSE)).astype("float32")
    ids = {name: draw.integers(0, rows, ROWS) for name, rows in SIZES.items()}
    batch = model.schema.pack({**{f"I{i + 1}": x[:, i] for i in range(DENSE)}, **ids})
    np.testing.assert_allclose(model.predict(batch, verbose=0), by_hand(theirs, x, ids), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model, words",
    [
        (object(), "object is not a tfrs.experimental.models.Ranking: it has no _embedding_layer"),
        (ranking(dots(), DIM + 7), "takes 11 numbers; the interaction gives 10"),
        (ranking(dots(), DIM + 6, low=mlp(DENSE, 5, last="relu")), r"table 'a' has shape \(9, 4\).* ends with 5"),
        (ranking(dots(), DIM + 6, low=mlp(DENSE, DIM, last="linear")), "'linear'.*final_activation"),
        (ranking(dots(), DIM + 6, high=mlp(DIM + 6, 1, last="linear")), "ends in 'linear'"),
        (ranking(dots(), DIM + 6, low=Named("Sequential", layers=[Named("Dropout")])), "bottom_stack has a Dropout"),
        (ranking(dots(), DIM + 6, low=Named("Sequential", layers=[])), "no Dense layer"),
        (ranking(Named("Flatten"), 4), "interaction is a Flatten"),
        (ranking(crosses(cross()), 16, True), "takes 16 numbers; the interaction gives 20"),
    ],
)
def test_models_without_a_counterpart_are_refused(model, words):
    with pytest.raises((ValueError, TypeError), match=words):
        from_tfrs(model)


# -- the real TFRS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    python = interpreter("KERAS_DLRM_TFRS_PYTHON", "tensorflow_recommenders", "requirements-keras.txt")
    folder = tmp_path_factory.mktemp("tfrs")
    root = str(Path(__file__).parents[2])
    run(python, PEER, folder, TF_USE_LEGACY_KERAS="1", KERAS_BACKEND="tensorflow", PYTHONPATH=root)
    return folder


@pytest.mark.slow
def test_predictions_equal_those_of_the_real_tfrs(made):
    """The converted models load on this backend."""
    cases = sorted(path.stem for path in made.glob("*.npz"))
    assert len(cases) == 13
    for case in cases:
        model = keras.saving.load_model(made / f"{case}.keras")
        with np.load(made / f"{case}.npz") as file:
            dense = {name: file["dense"][:, i] for i, name in enumerate(model.schema.dense_names)}
            batch = model.schema.pack({**dense, **{name: file[name] for name in model.schema.categorical_names}})
            assert np.ptp(file["expected"]) > 0.02, case
            found = model.predict(batch, verbose=0).ravel()
            np.testing.assert_allclose(found, file["expected"], rtol=1e-5, atol=1e-6, err_msg=case)


@pytest.mark.slow
def test_the_real_tfrs_is_told_what_has_no_counterpart(made):
    said = json.loads((made / "refused.json").read_text())
    words = {
        "two crosses": "second Cross takes the first one's output",
        "diag_scale": "diag_scale=0.5",
        "preactivation": "preactivation",
        "linear bottom": "'linear'",
        "no sigmoid": "ends in 'linear'",
        "dropout": "bottom_stack has a Dropout",
        "concatenation": "interaction is a Concatenate",
        "not called": "no weights yet; call the model on a batch first",
        "not a Ranking": "Sequential is not a tfrs.experimental.models.Ranking",
        "dense": "the schema has 1 dense columns, the bottom stack takes 3",
        "names": "TFRS's features are ['item', 'last', 'tags', 'user']",
        "sizes": "'user' has vocabulary_size=8",
        "combiner": "'tags' pools by 'sum', in TFRS by 'mean'",
        "sharing": "'tags' shares table 'item' in the schema",
    }
    assert set(said) == set(words)
    for name, expected in words.items():
        assert expected in said[name], (name, said[name])

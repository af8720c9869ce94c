"""One suite that every layer passes, against a NumPy function of the same; a new layer is a line of `CASES`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from helpers import numpy_layers
from helpers.calls import D, F, N, called, gradients, inputs, numpy
from helpers.numpy_layers import encode, encoded
from helpers.pooling import pooled
from keras import ops

from keras_dlrm.layers import (
    BilinearFusion,
    BottomMLP,
    CompressedInteraction,
    ConcatenationInteraction,
    CrossLayer,
    DotInteraction,
    EmbeddingCollection,
    Ensemble,
    ExponentialCross,
    FactorizationMachine,
    FieldAttention,
    GatedCross,
    LinearEncoding,
    MaskBlock,
    MMoEHead,
    PeriodicEncoding,
    PerTokenMLP,
    PiecewiseLinearEncoding,
    PLEHead,
    SharedBottomHead,
    TokenMixing,
    TopMLP,
    TPUEmbedding,
    WukongLayer,
)
from keras_dlrm.layers.dense_encoding import EncodedColumns
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.tasks import PLE, MMoE, SharedBottom

SCHEMA = Schema(
    categorical=[
        Categorical("a", 5, oov=1), Categorical("b", 9, hotness=2, combiner="mean"), Categorical("c", 9, hotness=3, table="b"),
    ]
)  # fmt: skip
IDS = (SCHEMA.width, "int32")


def embedded(layer, ids):
    examples = [np.concatenate(vectors) for vectors in pooled(layer.embedding_tables(), SCHEMA, ids)]
    return np.array(examples).reshape(layer.compute_output_shape(ids.shape))


class Case(NamedTuple):
    """A layer as a function of options that all layers have, its inputs' shapes without B, its output's, the same in NumPy."""

    make: Callable[..., Any]
    inputs: list[Any]
    output: tuple[int, ...]
    numpy: Callable[..., Any]
    dtype: str = "bfloat16"  # of its output under mixed precision


CASES = {
    "dot": Case(lambda **k: DotInteraction(**k), [(F, D)], (6,), numpy_layers.dot),
    "dot with self": Case(lambda **k: DotInteraction(self_interaction=True, **k), [(F, D)], (10,), numpy_layers.dot),
    "factorization machine": Case(
        lambda **k: FactorizationMachine(**k), [(F, D)], (D,), numpy_layers.factorization_machine
    ),
    "field attention": Case(lambda **k: FieldAttention(2, 3, seed=0, **k), [(F, D)], (F, 6), numpy_layers.attention),
    "compressed interaction": Case(
        lambda **k: CompressedInteraction([5, 2], seed=0, **k), [(F, D)], (7,), numpy_layers.compressed_interaction
    ),
    "mask block": Case(lambda **k: MaskBlock(4, 7, seed=0, **k), [(N,), (D,)], (4,), numpy_layers.mask_block),
    "gated cross": Case(lambda **k: GatedCross(seed=1, kernel_l2=0.1, **k), [(N,), (N,)], (N,), numpy_layers.gated_cross),
    "exponential cross": Case(lambda **k: ExponentialCross(seed=1, **k), [(N,)], (N,), numpy_layers.exponential_cross),
    "exponential cross with x0": Case(
        lambda **k: ExponentialCross(seed=1, kernel_l2=0.1, **k), [(N,), (N,)], (N,), numpy_layers.exponential_cross
    ),
    "bilinear fusion": Case(
        lambda **k: BilinearFusion(2, seed=1, **k), [(N,), (F,)], (1,), numpy_layers.bilinear_fusion, "float32"
    ),
    "wukong": Case(lambda **k: WukongLayer(3, 2, 2, [5], seed=1, **k), [(F, D)], (5, D), numpy_layers.wukong),
    "wukong with as many vectors": Case(lambda **k: WukongLayer(2, 2, 2, [], seed=1, **k), [(F, D)], (F, D), numpy_layers.wukong),
    "token mixing": Case(lambda **k: TokenMixing(**k), [(D, 2 * D)], (D, 2 * D), numpy_layers.token_mixing),
    "per-token MLP": Case(lambda **k: PerTokenMLP(2, seed=1, **k), [(F, D)], (F, D), numpy_layers.per_token_mlp),
    "ensemble": Case(
        lambda **k: Ensemble([FieldAttention(1, D, seed=1), PerTokenMLP(2, seed=2)], seed=3, **k), [(F, D)], (F, D),
        numpy_layers.ensemble,
    ),  # fmt: skip
    "ensemble below one another": Case(
        lambda **k: Ensemble([FieldAttention(1, D, seed=1), WukongLayer(3, 2, 2, [5], seed=2)], "concat", seed=3, **k),
        [(F, D)], (F + 5, D), numpy_layers.ensemble,
    ),  # fmt: skip
    "linear encoding": Case(lambda **k: LinearEncoding(D, seed=0, **k), [(N,)], (N, D), encode),
    "concatenation": Case(lambda **k: ConcatenationInteraction(**k), [(F, D)], (12,), numpy_layers.side_by_side),
    "cross vector": Case(lambda **k: CrossLayer("vector", seed=1, **k), [(N,), (N,)], (N,), numpy_layers.cross),
    "cross matrix": Case(lambda **k: CrossLayer(seed=1, kernel_l2=0.1, **k), [(N,), (N,)], (N,), numpy_layers.cross),
    "cross low rank": Case(lambda **k: CrossLayer(projection_dim=2, seed=1, **k), [(N,), (N,)], (N,), numpy_layers.cross),
    "bottom MLP": Case(lambda **k: BottomMLP([6, 4], seed=0, **k), [(N,)], (4,), numpy_layers.mlp),
    "bottom MLP with all": Case(
        lambda **k: BottomMLP([6, 4], "tanh", 0.5, True, 0.1, seed=0, **k), [(N,)], (4,), numpy_layers.mlp
    ),
    "top MLP with all": Case(
        lambda **k: TopMLP([6, 2], "tanh", 0.5, True, 0.1, seed=0, **k), [(N,)], (2,), numpy_layers.mlp, "float32"
    ),
    "top MLP": Case(lambda **k: TopMLP([6, 2], seed=0, **k), [(N,)], (2,), numpy_layers.mlp, "float32"),
    "piecewise linear": Case(lambda **k: PiecewiseLinearEncoding(D, bins=8, seed=0, **k), [(N,)], (N, D), encode),
    "piecewise linear, no activation": Case(lambda **k: PiecewiseLinearEncoding(1, 8, None, seed=0, **k), [(N,)], (N, 1), encode),
    "periodic": Case(lambda **k: PeriodicEncoding(D, frequencies=4, scale=0.3, seed=0, **k), [(N,)], (N, D), encode),
    "encoded columns": Case(
        lambda **k: EncodedColumns(["periodic", None, *["piecewise_linear"] * 2, None, "periodic"], D, seed=0, **k),
        [(N,)], (4, D), encoded,
    ),
    "shared bottom": Case(
        lambda **k: SharedBottomHead(SharedBottom([3]), 2, seed=1, **k), [(N,)], (2,), numpy_layers.task_head, "float32"
    ),
    "mixture of experts": Case(
        lambda **k: MMoEHead(MMoE([3], 4, [5, 2]), 3, (), "tanh", 0.5, True, 0.1, seed=1, **k), [(N,)], (3,),
        numpy_layers.task_head, "float32",
    ),
    "progressive layered extraction": Case(
        lambda **k: PLEHead(PLE([], 2, 1, [4], 2), 2, seed=1, **k), [(N,)], (2,), numpy_layers.task_head, "float32"
    ),
    "embeddings": Case(lambda **k: EmbeddingCollection(SCHEMA, 2, seed=0, **k), [IDS], (3, 2), embedded),
    "embeddings side by side": Case(
        lambda **k: EmbeddingCollection(SCHEMA, {"a": 2, "b": 3}, True, init_scale=0.5, seed=0, **k), [IDS], (8,), embedded
    ),
    "embeddings of a TPU": Case(lambda **k: TPUEmbedding(SCHEMA, 2, seed=0, **k), [IDS], (3, 2), embedded),
}  # fmt: skip
every_layer = pytest.mark.parametrize("name", CASES)


def symbols(shapes):
    return [keras.Input(s[:1], dtype="int32") if s[-1] == "int32" else keras.Input(s) for s in shapes]


def made(name, **options):
    case = CASES[name]
    layer = case.make(**options)
    layer(*symbols(case.inputs))
    rng = np.random.default_rng(7)
    for weight in layer.weights:  # a bias of zeros would hide a missing one
        if "float" in weight.dtype:
            weight.assign(np.abs(rng.normal(size=weight.shape)) if "variance" in weight.name else rng.normal(size=weight.shape))
    return layer, case


@every_layer
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_values_equal_numpy_at_any_batch_size(name, batch):
    layer, case = made(name)
    x = inputs(case.inputs, batch)
    got = called(layer, *x)
    assert keras.backend.standardize_dtype(got.dtype) == "float32" and tuple(got.shape) == (batch, *case.output)
    assert tuple(layer.compute_output_shape(*[each.shape for each in x])) == (batch, *case.output)
    np.testing.assert_allclose(numpy(got), case.numpy(layer, *x), rtol=1e-5, atol=1e-5)


@every_layer
def test_a_model_computes_and_saves_it_as_it_is(name, tmp_path):
    layer, case = made(name)
    tensors = symbols(case.inputs)
    model = keras.Model(tensors, layer(*tensors))
    assert model.output.shape == (None, *case.output)
    x = inputs(case.inputs, 3)
    of_model = numpy(called(model, x))
    np.testing.assert_allclose(of_model, numpy(called(layer, *x)), rtol=1e-6, atol=1e-6)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    (again,) = (each for each in loaded.layers if type(each) is type(layer))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(numpy(called(loaded, x)), of_model)


@every_layer
def test_config_round_trip_keeps_the_layer_and_its_initial_weights(name):
    layer = CASES[name].make()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    x = inputs(CASES[name].inputs, 3)
    for each in (layer, again):
        each(*symbols(CASES[name].inputs))
    np.testing.assert_array_equal(numpy(called(again, *x)), numpy(called(layer, *x)))


@every_layer
def test_mixed_precision_computes_on_float32_weights(name):
    layer, case = made(name, dtype="mixed_bfloat16")
    x = inputs(case.inputs, 5)
    got = called(layer, *x)
    assert keras.backend.standardize_dtype(got.dtype) == case.dtype
    assert {w.dtype for w in layer.weights if "float" in w.dtype} <= {"float32"}
    np.testing.assert_allclose(numpy(got), case.numpy(layer, *x), rtol=0.1, atol=0.15)


@every_layer
def test_gradients_are_the_slopes_of_the_numpy_function(name):
    """Along a random direction of all weights and inputs at once."""
    layer, case = made(name)
    x = inputs(case.inputs, 3)
    floats = [i for i, each in enumerate(x) if each.dtype == "float32"]
    trainable, rest = list(layer.trainable_variables), [v.value for v in layer.non_trainable_variables]
    start = [numpy(v.value).copy() for v in trainable] + [x[i] for i in floats]
    rng = np.random.default_rng(3)
    upstream = rng.normal(size=(3, *case.output)).astype("float32")
    directions = [rng.normal(size=each.shape).astype("float32") for each in start]

    def inputs_of(values):
        replaced = dict(zip(floats, values[len(trainable) :], strict=True))
        return [replaced.get(i, each) for i, each in enumerate(x)]

    def loss(*values):
        out, _ = layer.stateless_call(list(values[: len(trainable)]), rest, *inputs_of(values))
        return ops.sum(ops.multiply(out, upstream))

    def in_numpy(step):
        moved = [each.astype("float64") + step * direction for each, direction in zip(start, directions, strict=True)]
        for variable, value in zip(trainable, moved, strict=False):
            variable.assign(value)
        return np.sum(case.numpy(layer, *inputs_of(moved)) * upstream)

    slopes = gradients(loss, start)
    assert all(np.isfinite(gradient).all() for gradient in slopes)
    slope = sum(np.sum(gradient * direction) for gradient, direction in zip(slopes, directions, strict=True))
    assert slope == pytest.approx((in_numpy(3e-4) - in_numpy(-3e-4)) / 6e-4, rel=1e-2, abs=1e-2)


# What each layer refuses: call, kind of error, words of its message.
REFUSED = [
    (lambda: DotInteraction()(np.ones((2, 3), "float32")), ["(2, 3)", "(B, F, D)"]),
    (lambda: CrossLayer("tensor"), ["'tensor'", "vector"]),
    (lambda: CrossLayer("vector", projection_dim=2), ["projection_dim=2", "matrix"]),
    (lambda: CrossLayer(projection_dim=0), ["projection_dim=0", ">= 1"]),
    (lambda: TopMLP([1]).build((None, None)), ["TopMLP", "last dimension"]),
    (lambda: PiecewiseLinearEncoding(2).build((None, None)), ["PiecewiseLinearEncoding", "last dimension"]),
    (lambda: PiecewiseLinearEncoding(2, bins=0), ["bins=0", ">= 1"]),
    (lambda: PeriodicEncoding(2, frequencies=0), ["frequencies=0", ">= 1"]),
    (lambda: CompressedInteraction([]), ["maps=[]", "at least one"]),
    (lambda: Ensemble([]), ["interactions=[]", "at least one"]),
    (lambda: Ensemble([FieldAttention()], "mean"), ["combine='mean'", "concat"]),
    (lambda: Ensemble([FieldAttention(1, 2)])(np.ones((2, 4, 3), "float32")), ["FieldAttention", "(2, 4, 2)", "(B, 4, 3)"]),
    (lambda: TokenMixing()(np.ones((2, 4, 3), "float32")), ["4 tokens of width 3", "multiple of 4"]),
    (lambda: BilinearFusion(2)(np.ones((2, 3), "float32"), np.ones((2, 2), "float32")), ["x has 3", "heads=2"]),
    (lambda: ExponentialCross()(np.ones((2, 3), "float32")), ["3 numbers a row", "even"]),
    *(
        (lambda kind=kind, options=options: kind(**options), [kind.__name__, *words])
        for kind in (BottomMLP, TopMLP)
        for options, words in (
            ({"units": []}, ["units=[]", "at least one"]),
            ({"units": [3, 0]}, ["units[1]=0", ">= 1"]),
            ({"units": [2.5]}, ["units[0]=2.5", "integer"]),
            ({"units": [True]}, ["units[0]=True"]),
            ({"units": [3], "dropout": 1.0}, ["dropout=1.0", "[0, 1)"]),
        )
    ),
]


@pytest.mark.parametrize("call, words", REFUSED, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)

"""Frozen parts of any depth: the same ones after `from_config`, after saving, and after resuming, with their optimizer's state."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.models.saved import frozen_of

# The quicker way to run a few steps: JAX compiles each operation of an eager one.
EAGER = keras.backend.backend() != "jax"
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 9), kd.Categorical("b", 7)])
draw = np.random.default_rng(0)
X = {"dense": draw.normal(size=(8, 1)).astype("float32"), "sparse": draw.integers(0, 7, (8, 2))}
Y = np.array([0, 1] * 4, "float32")


def dlrm():
    return kd.models.DLRM(SCHEMA, 4, [8, 4], [8, 8, 1], seed=0)


def functional():
    inputs = {"dense": keras.Input((1,), name="dense"), "sparse": keras.Input((2,), dtype="int32", name="sparse")}
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True)(inputs["sparse"])
    inner = keras.Sequential([keras.Input((9,)), kd.layers.BottomMLP([4, 4]), keras.layers.Dense(3)])
    features = inner(keras.layers.Concatenate()([inputs["dense"], pooled]))
    return kd.models.SparseModel(inputs, keras.layers.Dense(1, activation="sigmoid")(features))


@keras.saving.register_keras_serializable("test_frozen")
class Alone(kd.models.SparseModel):
    """A subclass that makes its configuration alone."""

    def __init__(self, width=4):
        super().__init__()
        self.collection = kd.layers.EmbeddingCollection(SCHEMA, width, concatenate=True, name="collection")
        self.mlp = kd.layers.TopMLP([4, 4, 1], name="mlp")
        self.collection.build((None, 2))
        self.mlp.build((None, 2 * width))
        self.built = True

    def call(self, inputs, training=None):
        return keras.ops.sigmoid(self.mlp(self.collection(inputs["sparse"]), training=training))

    def get_config(self):
        return {"width": 4}


def part(model, kind):
    return next(layer for layer in model._flatten_layers() if isinstance(layer, kind))


def set_trainable(value, *things):
    for thing in things:
        thing.trainable = value


FREEZE = {
    "a layer of an MLP": (dlrm, lambda m: set_trainable(False, m.top_mlp.dense_layers[1])),
    "all but a kernel": (
        dlrm,
        lambda m: (
            set_trainable(False, m.bottom_mlp), set_trainable(True, m.bottom_mlp.dense_layers[0]),
            set_trainable(False, m.bottom_mlp.dense_layers[0].bias),
        ),
    ),
    "the tables": (dlrm, lambda m: set_trainable(False, m.embeddings.tables[0])),
    "inside a nested model": (functional, lambda m: set_trainable(False, part(m, kd.layers.BottomMLP).dense_layers[0])),
    "a subclass": (Alone, lambda m: set_trainable(False, m.mlp.dense_layers[2].kernel, m.collection)),
}  # fmt: skip


def compiled(model):
    rule = kd.optimizers.Adagrad(0.05)
    model.compile(keras.optimizers.Adam(0.05), loss="binary_crossentropy", embedding_optimizer=rule, run_eagerly=EAGER)
    return model


def trained(model, times=2):
    for _ in range(times):
        model.train_on_batch(X, Y)
    return model


def assert_same(a, b):
    assert frozen_of(a) == frozen_of(b)
    assert len(a.trainable_variables) == len(b.trainable_variables)
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FREEZE)
def test_frozen_parts_and_the_optimizers_state_survive(name, tmp_path):
    make, freeze = FREEZE[name]
    model = make()
    freeze(model)
    before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.non_trainable_variables}
    assert frozen_of(model)
    trained(compiled(model))
    for v in model.non_trainable_variables:
        np.testing.assert_array_equal(before[v.path], keras.ops.convert_to_numpy(v))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    kd.checkpoint.save(model, tmp_path / "checkpoints", 2)
    restored = compiled(make())
    freeze(restored)
    compiled(restored)
    kd.checkpoint.restore(restored, tmp_path / "checkpoints")
    trained(model)
    for other in (loaded, restored):
        assert_same(model, trained(other))


def test_configurations_name_frozen_parts_and_growing_keeps_them():
    model = dlrm()
    FREEZE["all but a kernel"][1](model)
    inner = "bottom_mlp/dense_layers.0"
    assert frozen_of(model) == {"bottom_mlp": False, inner: True, f"{inner}/@1": False}
    again = kd.models.DLRM.from_config(model.get_config())
    assert frozen_of(again) == frozen_of(model) != {}
    assert not any(frozen_of(m) for m in (dlrm(), kd.models.DLRM.from_config(dlrm().get_config())))
    larger = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 12), kd.Categorical("b", 7)])
    assert frozen_of(kd.models.grow(model, larger)) == frozen_of(model)
    model.trainable = False
    assert not kd.models.DLRM.from_config(model.get_config()).trainable_variables
    # As earlier files have it.
    config = {**dlrm().get_config(), "frozen": ["bottom_mlp"]}
    assert not kd.models.DLRM.from_config(config).bottom_mlp.trainable
    with pytest.raises(ValueError, match="freezes part 'no_mlp/#9'"):
        kd.models.DLRM.from_config({**config, "frozen": {"no_mlp/#9": False}})


@pytest.mark.slow
def test_a_state_that_would_be_dropped_is_an_error(tmp_path):
    model = trained(compiled(dlrm()))
    model.save(tmp_path / "m.keras")
    kd.checkpoint.save(model, tmp_path / "checkpoints", 2)
    other = dlrm()
    FREEZE["a layer of an MLP"][1](other)
    compiled(other)
    with pytest.raises(ValueError, match=r"state would be lost: other parts are frozen .*compile=False"):
        other.optimizer.dense.load_own_variables({str(i): v for i, v in enumerate(model.optimizer.dense.variables)})
    model = dlrm()
    model.top_mlp.dense_layers[1].kernel.trainable = False
    trained(compiled(model))
    kd.checkpoint.save(model, tmp_path / "frozen", 2)
    other = dlrm()
    other.top_mlp.dense_layers[1].bias.trainable = False
    with pytest.raises(ValueError, match="trained"):
        kd.checkpoint.restore(compiled(other), tmp_path / "frozen")

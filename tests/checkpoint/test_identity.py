"""Identity of a checkpoint's model, and the models that it is refused by."""

import json

import keras
import pytest

import keras_dlrm as kd
from keras_dlrm.checkpoint.state import identity
from keras_dlrm.support.differences import difference

COLUMNS = [kd.Categorical("a", 20), kd.Categorical("b", 20, hotness=3)]


def build(optimizer=None, rows=None, columns=COLUMNS, **options):
    model = kd.models.DLRM(
        kd.Schema(dense=["x", "y"], categorical=columns), 4, **{"bottom_mlp": [8, 4], "top_mlp": [8, 1], "seed": 1, **options}
    )
    model.compile(optimizer or keras.optimizers.RMSprop(0.01), embedding_optimizer=rows or kd.optimizers.Adagrad(0.1))
    return model


def columns(**changes):
    return [COLUMNS[0], kd.Categorical("b", 20, **{"hotness": 3, **changes})]


@pytest.mark.parametrize(
    ("named", "other"),
    [
        ('optimizer.class is "RMSprop" there, "Adagrad"', lambda: build(keras.optimizers.Adagrad(0.01))),
        ("optimizer.rho is 0.9 there, 0.8", lambda: build(keras.optimizers.RMSprop(0.01, rho=0.8))),
        ('optimizer.learning_rate is "number" there, "CosineDecay"',
         lambda: build(keras.optimizers.RMSprop(keras.optimizers.schedules.CosineDecay(0.1, 10)), kd.optimizers.Adagrad(0.1))),
        ('embedding_optimizer.class is "Adagrad" there, "RowwiseAdagrad"', lambda: build(rows=kd.optimizers.RowwiseAdagrad(0.1))),
        ("embedding_optimizer.epsilon_in_root is false", lambda: build(rows=kd.optimizers.Adagrad(0.1, epsilon_in_root=True))),
        (r'schema.categorical\[0\].name is "a" there, "b"', lambda: build(columns=COLUMNS[::-1])),
        (r'schema.categorical\[1\].combiner is not set there, "mean"', lambda: build(columns=columns(combiner="mean"))),
        (r"schema.categorical\[1\].hashed is not set there, true", lambda: build(columns=columns(hashed=True))),
        ('activation is "relu" there, "tanh"', lambda: build(activation="tanh")),
        ("self_interaction is false there, true", lambda: build(self_interaction=True)),
    ],
)  # fmt: skip
def test_a_model_that_differs_is_refused_with_the_difference(named, other, tmp_path):
    kd.checkpoint.save(build(), tmp_path)
    with pytest.raises(ValueError, match=f"is of another model or optimizer: .*{named}"):
        kd.checkpoint.restore(other(), tmp_path)


def test_what_has_no_meaning_for_the_weights_may_differ(tmp_path):
    kd.checkpoint.save(build(), tmp_path)
    build()  # layers count up
    other = build(keras.optimizers.RMSprop(0.5, clipnorm=1.0), kd.optimizers.Adagrad(0.2, 0.5), seed=2, dtype="mixed_bfloat16",
                  init_scale=0.1, embedding_options={"table_dtype": "bfloat16"})  # fmt: skip
    assert kd.checkpoint.restore(other, tmp_path)["step"] == 0


def functional(activation="sigmoid", swapped=False):
    ids = keras.Input((4,), dtype="int32")
    pooled = kd.layers.EmbeddingCollection(kd.Schema(categorical=COLUMNS), 4, concatenate=True)(ids)
    first, second = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(8, activation="tanh")
    first, second = (second, first) if swapped else (first, second)
    scaled = keras.layers.Lambda(lambda x: x * 2, output_shape=(8,))(second(first(pooled)))
    model = kd.models.SparseModel(ids, keras.layers.Dense(1, activation=activation)(scaled))
    model.compile("adagrad", loss="binary_crossentropy")
    return model


def test_functional_models_are_compared_by_their_layers_not_by_names_that_count_up():
    there = json.loads(json.dumps(identity(functional())))
    assert difference(there, identity(functional())) is None
    assert difference(there, identity(functional("linear")))[1:] == ("sigmoid", "linear")
    assert difference(there, identity(functional(swapped=True)))[1:] == ("relu", "tanh")

"""One suite for every model: parameters, forward pass in NumPy, a step of training, precision, config, exports."""

import keras
import numpy as np
import pytest
from helpers.calls import EAGER, called
from helpers.numpy_layers import sigmoid
from helpers.numpy_models import Parts, bce
from helpers.suite import in_suite, suite_on
from helpers.zoo import KINDS, MODELS, SCHEMA, WITHOUT_DENSE, data, numpy_forward

from keras_dlrm.backend.private_keras import layers_in
from keras_dlrm.export import onnx, savedmodel
from keras_dlrm.models import DLRM

pytestmark = pytest.mark.usefixtures("quick_exports")

every_model = pytest.mark.parametrize("name", MODELS)
every_kind = pytest.mark.parametrize("name", KINDS)


def mean(losses):
    """Mean of each label over the rows that have it, summed over the labels."""
    return np.nanmean(losses, axis=0).sum()


@every_model
def test_it_is_built_without_a_batch_and_has_as_many_parameters_as_counted_by_hand(name):
    model, count = MODELS[name].make(), MODELS[name].count
    # On JAX and torch Keras takes a batch from the data to build what is not.
    assert [layer.name for layer in layers_in(model) if not layer.built] == []
    assert model.count_params() == count
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == count


@every_model
def test_predictions_equal_numpy(name):
    model = MODELS[name].make()
    batch, _ = data(model.schema, 6)
    got = keras.ops.convert_to_numpy(called(model, batch))
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_kind
def test_predict_equals_numpy_also_in_the_last_partial_batch(name):
    model = MODELS[name].make()
    batch, _ = data(model.schema, 10)
    got = model.predict(batch, batch_size=4, verbose=0)
    assert got.shape == (10, model.n_labels) and got.dtype == np.float32
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


def one_step(model, batch, y):
    """Minus the gradients of all weights, from a step of SGD at rate 1, and the loss before it."""
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=EAGER)
    before = [w.astype("float64") for w in model.get_weights()]
    loss = float(model.train_on_batch(batch, y))
    return before, [after - start for start, after in zip(before, model.get_weights(), strict=True)], loss


@pytest.mark.slow
@every_kind
def test_a_step_goes_down_the_slope_of_the_loss_in_numpy(name):
    """Along a random direction of all weights at once."""
    model, case = MODELS[name].make(), MODELS[name]
    batch, y = data(model.schema, 6)
    y = y.reshape(6, -1)
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()])

    def loss(weights=None):
        """Loss of the model, and of its parts where these are above it."""
        whole = mean(bce(case.numpy(model, Parts(model, batch)), y))
        parts = [mean(bce(logits, y)) for logits in case.parts(model, Parts(model, batch))] if case.parts else []
        weights = [max(0, part - whole) for part in parts] if weights is None else weights
        return whole + np.dot(weights, parts), weights

    expected, weights = loss()
    assert (np.array(weights) > 0).any() == bool(case.parts)
    before, changes, reported = one_step(model, batch, y)
    assert [layer.name for layer in model.layers if not layer.built] == []  # else Keras goes through the model twice in each step
    assert reported == pytest.approx(expected, rel=1e-5)
    direction = [rng.normal(size=w.shape) for w in before]

    def along(step):
        model.set_weights([w + step * d for w, d in zip(before, direction, strict=True)])
        return loss(weights)[0]

    slope = -sum((change * d).sum() for change, d in zip(changes, direction, strict=True))
    assert slope == pytest.approx((along(1e-4) - along(-1e-4)) / 2e-4, rel=1e-2, abs=1e-2)


@every_kind
def test_bfloat16_predicts_near_numpy(name):
    model = MODELS[name].make(dtype="mixed_bfloat16")
    batch, _ = data(model.schema, 5)
    got = keras.ops.convert_to_numpy(called(model, batch))
    assert got.dtype == np.float32 and {w.dtype for w in model.trainable_variables} == {"float32"}
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), atol=0.02)


@pytest.mark.slow
@every_kind
def test_it_needs_no_dense_columns_and_is_exported_to_onnx(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    case = MODELS[name]
    model = case.make() if case.make().schema.n_dense == 0 else case.make(schema=WITHOUT_DENSE)
    batch, _ = data(model.schema, 5)
    session = runtime.InferenceSession(str(onnx(model, tmp_path / "m.onnx")))
    got = session.run(None, {"sparse": batch["sparse"].astype("int64")})[0]
    np.testing.assert_allclose(got, sigmoid(numpy_forward(name, model, batch)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", in_suite(KINDS, "dlrm dot", "deep fm", "wukong", "svd++", "dcn", "mmoe in dlrm"))
@suite_on("tensorflow")
def test_it_is_saved_and_served(name, tmp_path):
    """The export compares the answers itself."""
    model = MODELS[name].make()
    batch, _ = data(model.schema, 5)
    for variable in model.trainable_variables:  # those of the seed would be there without a file
        variable.assign(variable.value + 0.01)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0))
    savedmodel(loaded, tmp_path / "served" / "1")


@every_model
def test_config_round_trip_keeps_the_model_and_its_initial_weights(name):
    model = MODELS[name].make()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert type(again) is type(model) and again.get_config() == model.get_config()
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@every_model
def test_seeds_decide_the_initial_weights(name):
    first, second = MODELS[name].make(seed=1), MODELS[name].make(seed=2)
    own = {id(v) for v in first.interaction.weights} if isinstance(first, DLRM) else set()
    for v, a, b in zip(first.weights, first.get_weights(), second.get_weights(), strict=True):
        assert id(v) in own or np.isin(a, (0, 1)).all() or np.abs(a - b).max() > 0


def test_parts_of_models_with_neighbouring_seeds_draw_independently():
    """No kernel of one is a kernel of the other, wherever it stands."""
    models = [DLRM(SCHEMA, 4, [4, 4], [4, 4, 1], seed=seed) for seed in range(4)]
    kernels = [w.ravel()[:4].tobytes() for m in models for w in m.get_weights() if w.ndim == 2]
    assert len(set(kernels)) == len(kernels)

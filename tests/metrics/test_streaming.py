"""The Keras metrics: equal to the exact scores, in any batches, dtype, mode and backend."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics
from keras_dlrm.metrics.streaming import RunningSum

METRICS = [
    (metrics.NormalizedEntropy, metrics.normalized_entropy),
    (metrics.Calibration, metrics.calibration),
    (metrics.LogLoss, metrics.log_loss),
]
each = pytest.mark.parametrize(("metric", "exact"), METRICS)


def example(n=500, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(1, 5, n).astype("float32")
    return (rng.random(n) < probabilities).astype("float32"), probabilities


@each
def test_batches_add_up_to_the_exact_score(metric, exact):
    labels, probabilities = example()
    streaming = metric()
    for start in range(0, 500, 64):
        streaming.update_state(labels[start : start + 64], probabilities[start : start + 64])
    assert float(streaming.result()) == pytest.approx(exact(labels, probabilities), rel=1e-5)
    streaming.reset_state()
    streaming.update_state(labels[:100], probabilities[:100])
    assert float(streaming.result()) == pytest.approx(exact(labels[:100], probabilities[:100]), rel=1e-5)


@each
@pytest.mark.parametrize("label_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_flat_and_column_shapes_mean_the_same(metric, exact, label_shape, shape):
    labels, probabilities = example()
    streaming = metric()
    weights = np.ones(500, "float32")
    streaming.update_state(labels.reshape(label_shape), probabilities.reshape(shape), weights.reshape(label_shape))
    assert float(streaming.result()) == pytest.approx(exact(labels, probabilities), rel=1e-5)


@each
def test_a_whole_weight_equals_repeating_the_row(metric, exact):
    labels, probabilities = example()
    weights = np.random.default_rng(1).integers(0, 4, 500)
    streaming = metric()
    streaming.update_state(labels, probabilities, sample_weight=weights)
    expected = exact(np.repeat(labels, weights), np.repeat(probabilities, weights))
    assert float(streaming.result()) == pytest.approx(expected, rel=1e-5)


@each
def test_a_scalar_weight_changes_nothing(metric, exact):
    labels, probabilities = example()
    streaming = metric()
    streaming.update_state(labels, probabilities, sample_weight=0.25)
    assert float(streaming.result()) == pytest.approx(exact(labels, probabilities), rel=1e-5)


@each
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_metric_computes_in_float32_whatever_the_predictions_are(metric, exact, dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless asked for")
    labels, probabilities = example(4096)
    predictions = keras.ops.cast(probabilities, dtype)
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(predictions, "float32"))
    streaming = metric()
    streaming.update_state(labels, predictions)
    assert keras.backend.standardize_dtype(streaming.result().dtype) == "float32"
    assert {v.dtype for v in streaming.variables} == {"float32"}
    assert float(streaming.result()) == pytest.approx(exact(labels, rounded), rel=1e-5)


def test_integer_and_boolean_labels_are_taken():
    labels, probabilities = example()
    for dtype in ("int32", "int64", "bool", "uint8"):
        metric = metrics.NormalizedEntropy()
        metric.update_state(labels.astype(dtype), probabilities)
        assert float(metric.result()) == pytest.approx(metrics.normalized_entropy(labels, probabilities), rel=1e-5)


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1, 1]])
def test_normalized_entropy_is_one_while_the_entropy_of_the_labels_is_zero(labels):
    metric = metrics.NormalizedEntropy()
    assert float(metric.result()) == 1.0
    metric.update_state(np.array(labels, "float32"), np.full(len(labels), 0.3, "float32"))
    assert float(metric.result()) == 1.0


@pytest.mark.parametrize("labels", [[0.0, 1.0, np.nan], [0.0, 0.0, np.nan]])
def test_nan_stays_nan_in_normalized_entropy(labels):
    metric = metrics.NormalizedEntropy()
    metric.update_state(np.array(labels, "float32"), np.full(3, 0.3, "float32"))
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(np.zeros(3, "float32"), np.array([0.3, np.nan, 0.3], "float32"))
    assert np.isnan(float(metric.result()))


def test_calibration_is_zero_until_a_click_is_seen():
    metric = metrics.Calibration()
    assert float(metric.result()) == 0.0
    metric.update_state(np.zeros(3), np.full(3, 0.3))
    assert float(metric.result()) == 0.0


def test_certain_predictions_stay_finite():
    metric = metrics.NormalizedEntropy()
    metric.update_state(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert float(metric.result()) == pytest.approx(-np.log(1.2e-7) / np.log(2), rel=0.02)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=30))
def test_the_base_rate_scores_one_in_both_metrics(labels):
    labels = np.array([0, 1, *labels], "float32")
    base = np.full(len(labels), labels.mean(), "float32")
    for metric in (metrics.NormalizedEntropy(), metrics.Calibration()):
        metric.update_state(labels, base)
        assert float(metric.result()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_sums_do_not_saturate_after_many_rows():
    metric = metrics.Calibration()
    for _ in range(3):  # 2²⁴ rows a step, then single rows that a float32 sum would lose
        metric.update_state(np.ones(1), np.ones(1), sample_weight=2.0**24)
    for _ in range(300):
        metric.update_state(np.ones(1), np.ones(1))
    high, low = (float(v) for v in metric.variables[:2])
    assert high + low == 3 * 2**24 + 300


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_compensation_survives_compilation(compiled):
    """A compiler that reorders float additions would undo `RunningSum`."""
    if compiled and keras.backend.backend() == "torch":
        pytest.skip("torch compiles only with a C++ compiler at hand; its eager mode is the test of torch")

    class Count(keras.metrics.Metric):
        def __init__(self, name="count"):
            super().__init__(name=name, dtype="float32")
            self.rows = RunningSum(self, "rows")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.rows.add(keras.ops.sum(keras.ops.cast(y_true, "float32")))

        def result(self):
            return (self.rows.high - 2.0**24) + self.rows.low  # a plain float32 sum never leaves 2²⁴

    inputs = keras.Input((1,))
    model = keras.Model(inputs, inputs)
    model.compile(loss="mse", metrics=[Count()], jit_compile=compiled, run_eagerly=not compiled)
    y = np.ones((101, 1), "float32")
    y[0] = 2.0**24
    assert model.evaluate(y, y, batch_size=1, verbose=0, return_dict=True)["count"] == 100.0


@each
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit_and_evaluate_report_the_metric(metric, exact, run_eagerly):
    labels, probabilities = example()
    inputs = keras.Input((1,))
    model = keras.Model(inputs, inputs)
    model.compile(loss="binary_crossentropy", metrics=[metric(name="m")], run_eagerly=run_eagerly)
    result = model.evaluate(probabilities[:, None], labels, batch_size=128, verbose=0, return_dict=True)
    assert result["m"] == pytest.approx(exact(labels, probabilities), rel=1e-5)


def test_weighted_metrics_receive_sample_weights():
    labels, probabilities = example()
    weights = np.random.default_rng(2).integers(0, 3, 500).astype("float32")
    inputs = keras.Input((1,))
    model = keras.Model(inputs, inputs)
    model.compile(loss="binary_crossentropy", weighted_metrics=[metrics.NormalizedEntropy(name="ne")])
    result = model.evaluate(
        probabilities[:, None], labels, sample_weight=weights, batch_size=128, verbose=0, return_dict=True
    )
    repeat = weights.astype(int)
    expected = metrics.normalized_entropy(np.repeat(labels, repeat), np.repeat(probabilities, repeat))
    assert result["ne"] == pytest.approx(expected, rel=1e-5)


@each
def test_the_metric_round_trips_through_its_config_and_a_saved_model(metric, exact, tmp_path):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric(name="mine")))
    assert type(again) is metric
    assert again.name == "mine"
    labels, probabilities = example()
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    model.compile(optimizer="sgd", loss="binary_crossentropy", metrics=[metric(name="mine")])
    model.evaluate(probabilities[:, None], labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    result = loaded.evaluate(probabilities[:, None], labels, verbose=0, return_dict=True)
    assert result["mine"] == pytest.approx(exact(labels, probabilities), rel=1e-5)


def test_the_registered_name_is_the_packages():
    assert keras.saving.get_registered_name(metrics.NormalizedEntropy) == "keras_dlrm>NormalizedEntropy"
    assert keras.saving.get_registered_name(metrics.Calibration) == "keras_dlrm>Calibration"


@each
def test_shapes_that_do_not_agree_are_named(metric, exact):
    with pytest.raises(ValueError, match=r"m: y_true has shape \(3,\) but y_pred has shape \(2, 1\); give one value"):
        metric(name="m").update_state(np.ones(3), np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"m: sample_weight has shape \(1,\) but y_pred has shape \(3,\)"):
        metric(name="m").update_state(np.ones(3), np.ones(3), sample_weight=np.ones(1))

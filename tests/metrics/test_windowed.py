"""Scores of the last window of a stream."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm import metrics


def example(n=600):
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 3, n).astype("float32")
    return (random.random(n) < probabilities).astype("float32"), probabilities


def last_window(sizes, rows):
    """Bounds of the rows that are scored, window by window as the batches come."""
    start, end, window = 0, 0, None
    for size in sizes:
        end += size
        if end - start >= rows:
            window, start = (start, end), end
    return window or (start, end)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([1, 16, 33]), min_size=1, max_size=8), st.integers(1, 70))
def test_the_score_is_that_of_the_last_complete_window(sizes, rows):
    labels, probabilities = example()
    labels[::2] = np.arange(300) % 2  # both classes in each window
    metric, at = metrics.Windowed(metrics.LogLoss(), rows), 0
    for size in sizes:
        metric.update_state(labels[at : at + size], probabilities[at : at + size])
        at += size
    start, end = last_window(sizes, rows)
    assert float(metric.result()) == pytest.approx(metrics.log_loss(labels[start:end], probabilities[start:end]), rel=1e-5)
    metric.reset_state()
    metric.update_state(labels[:9], probabilities[:9])
    assert float(metric.result()) == pytest.approx(metrics.log_loss(labels[:9], probabilities[:9]), rel=1e-5)


def test_rows_without_weight_fill_no_window():
    labels, probabilities = example(40)
    metric = metrics.Windowed(metrics.LogLoss(), 20)
    weights = np.arange(40) < 15
    for start in (0, 10, 20, 30):
        part = slice(start, start + 10)
        metric.update_state(labels[part], probabilities[part], sample_weight=weights[part].astype("float32"))
    assert float(metric.result()) == pytest.approx(metrics.log_loss(labels[:15], probabilities[:15]), rel=1e-5)
    metric.update_state(labels[15:20], probabilities[15:20], sample_weight=2.0)
    assert float(metric.result()) == pytest.approx(
        metrics.scores(labels[:20], probabilities[:20], np.repeat([1, 2], [15, 5]))["logloss"], rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_evaluate_reports_the_window_beside_the_metric(compiled):
    if compiled and keras.backend.backend() == "torch":
        pytest.skip("torch compiles only with a C++ compiler at hand; its eager mode is the test of torch")
    labels, probabilities = example()
    inputs = keras.Input((1,))
    model = keras.Model(inputs, inputs)
    auc = keras.metrics.AUC(name="auc")
    model.compile(
        loss="binary_crossentropy", metrics=[auc, metrics.Windowed(auc, 200), metrics.Windowed(metrics.NormalizedEntropy(), 1000)],
        jit_compile=compiled, run_eagerly=not compiled,
    )  # fmt: skip
    result = model.evaluate(probabilities[:, None], labels, batch_size=110, verbose=0, return_dict=True)
    assert result["auc"] == pytest.approx(metrics.auc(labels, probabilities), abs=2e-3)
    assert result["auc_window"] == pytest.approx(metrics.auc(labels[220:440], probabilities[220:440]), abs=3e-3)
    whole = metrics.normalized_entropy(labels, probabilities)
    assert result["normalized_entropy_window"] == pytest.approx(whole, rel=1e-5)


def test_a_window_round_trips_through_its_config():
    metric = metrics.Windowed(metrics.LogLoss(name="mine"), 50)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (type(again), again.rows, again.name) == (metrics.Windowed, 50, "mine_window")
    labels, probabilities = example(10)
    again.update_state(labels, probabilities)
    assert float(again.result()) == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="Windowed: metric='auc' must be a Keras metric"):
        metrics.Windowed("auc", 10)
    with pytest.raises(ValueError, match="Windowed: rows=0 must be an integer"):
        metrics.Windowed(metrics.LogLoss(), 0)

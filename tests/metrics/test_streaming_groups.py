"""Metrics that are told the group of each row, against the exact ones."""

import keras
import numpy as np
import pytest

from keras_dlrm import metrics


def example(n=2000, groups=6):
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 5, n).astype("float32")
    group = random.integers(-1, groups, n).astype("int32")
    labels = (random.random(n) < probabilities).astype("float32")
    labels[group == 5] = 0  # a group of one class
    return labels, probabilities, group, random.integers(0, 3, n).astype("float32")


def in_batches(metric, *arrays, size=300, **named):
    for start in range(0, len(arrays[0]), size):
        part = slice(start, start + size)
        metric.update_state(*(a[part] for a in arrays), **{name: values[part] for name, values in named.items()})


def test_grouped_auc_is_near_the_exact_one_and_equals_it_where_ties_are_those_of_bins():
    labels, probabilities, group, weights = example()
    some = group >= 0
    metric = metrics.GroupedAUC(6)
    assert float(metric.result()) == 0.5
    in_batches(metric, labels, probabilities, groups=group, sample_weight=weights)
    exact = metrics.grouped_auc(labels[some], probabilities[some], group[some], weights[some])
    assert float(metric.result()) == pytest.approx(exact, abs=3e-3)
    coarse = np.array([0.02, 0.1, 0.3, 0.6], "float32")[np.searchsorted([0.05, 0.2, 0.5], probabilities)]
    metric.reset_state()
    in_batches(metric, labels[:, None], coarse[:, None], groups=group[:, None], sample_weight=weights)
    exact = metrics.grouped_auc(labels[some], coarse[some], group[some], weights[some])
    assert float(metric.result()) == pytest.approx(exact, abs=1e-6)


def test_rows_beyond_the_groups_are_left_out():
    labels, probabilities, group, _ = example()
    metric, few = metrics.GroupedAUC(2, bins=50), group < 2
    in_batches(metric, labels, probabilities, groups=group)
    other = metrics.GroupedAUC(2, bins=50)
    in_batches(other, labels[few], probabilities[few], groups=group[few])
    assert float(metric.result()) == pytest.approx(float(other.result()), abs=1e-6)


@pytest.mark.parametrize("far", [2**31, 2**32, 2**63 + 1, -(2**32)])
def test_hashes_beyond_int32_are_no_other_group(far):
    metric = metrics.GroupedAUC(1)
    groups = np.array([0, 0, far], np.uint64 if far > 2**63 else np.int64)
    metric.update_state(np.array([0, 1, 1]), np.array([0.1, 0.3, 0.0]), groups)
    assert float(metric.result()) == 1.0


def test_groups_of_one_class_have_no_auc_and_nan_stays_nan():
    metric = metrics.GroupedAUC(3)
    metric.update_state(np.array([1, 1, 0]), np.array([0.0, 1.0, 0.3]), np.array([0, 0, 1]))
    assert float(metric.result()) == 0.5
    metric.update_state(np.array([0, 1]), np.array([0.1, 0.3]), np.array([2, 2]))
    assert float(metric.result()) == 1.0
    metric.update_state(np.array([0]), np.array([np.nan]), np.array([2]))
    assert np.isnan(float(metric.result()))


def test_each_slice_has_the_score_of_its_rows():
    labels, probabilities, group, weights = example()
    names = ["a", "b", "c"]
    for streaming, exact in ((metrics.NormalizedEntropy(), "ne"), (keras.metrics.AUC(num_thresholds=2000), "auc")):
        metric = metrics.Sliced(streaming, names)
        in_batches(metric, labels, probabilities, slices=group, sample_weight=weights)
        rows = {row["value"]: row for row in metrics.scores_by_slice(labels, probabilities, group, weights)}
        assert list(metric.result()) == names
        for number, value in enumerate(metric.result().values()):
            assert float(value) == pytest.approx(rows[number][exact], abs=1e-3)
        metric.reset_state()
        in_batches(metric, labels[:300], probabilities[:300], slices=group[:300])
        again = metrics.Sliced(streaming, names)
        in_batches(again, labels[:300], probabilities[:300], slices=group[:300])
        assert {k: float(v) for k, v in metric.result().items()} == {k: float(v) for k, v in again.result().items()}


@pytest.mark.slow
def test_metrics_of_groups_work_in_a_compiled_step():
    labels, probabilities, group, _ = example(300)
    for metric in (metrics.GroupedAUC(6), metrics.Sliced(metrics.LogLoss(), ["a", "b"])):
        metric.update_state(labels, probabilities, group)
        expected = [float(value) for value in keras.tree.flatten(metric.result())]
        metric.reset_state()

        def step(variables, *batch, metric=metric):
            return metric.stateless_update_state(variables, *batch)

        if keras.backend.backend() == "jax":
            import jax

            state = jax.jit(step)([v.value for v in metric.variables], labels, probabilities, group)
            for variable, value in zip(metric.variables, state, strict=True):
                variable.assign(value)
        elif keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.function(metric.update_state, jit_compile=True)(*map(tf.constant, (labels, probabilities, group)))
        else:
            pytest.skip("torch compiles only with a C++ compiler at hand; its eager mode is the test of torch")
        np.testing.assert_allclose([float(value) for value in keras.tree.flatten(metric.result())], expected, rtol=1e-6)


def test_metrics_of_groups_round_trip_through_their_config():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metrics.GroupedAUC(7, 20, "g")))
    assert (again.groups, again.bins, again.name) == (7, 20, "g")
    sliced = metrics.Sliced(metrics.LogLoss(name="mine"), ["a", "b"])
    assert len(sliced.variables) == 8
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(sliced))
    assert (again.slices, again.name) == (["a", "b"], "mine_sliced")


def test_who_gives_no_groups_is_told_where_they_can_be_given():
    for metric, words in (
        (metrics.GroupedAUC(2, name="m"), "m: update_state needs groups=…, .* or use kd.metrics.grouped_auc"),
        (metrics.Sliced(metrics.LogLoss(), ["a"], name="m"), "needs slices=…, .* or use kd.metrics.scores_by_slice"),
    ):
        with pytest.raises(ValueError, match=words):
            metric.update_state(np.ones(2), np.ones(2))
        with pytest.raises(ValueError, match=r"m: .* has shape \(3,\); give one integer a row, \(2,\)"):
            metric.update_state(np.ones(2), np.ones(2), np.ones(3, "int32"))
        with pytest.raises(ValueError, match="has dtype float32; give one integer a row"):
            metric.update_state(np.ones(2), np.ones(2), np.ones(2, "float32"))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: metrics.GroupedAUC(0), ValueError, "GroupedAUC: groups=0 must be an integer >= 1"),
        (lambda: metrics.GroupedAUC(2, bins=1), ValueError, "bins=1 must be an integer >= 2"),
        (lambda: metrics.GroupedAUC(2**31), ValueError, "groups=2147483648 must be an integer in 1 … "),
        (lambda: metrics.Sliced("auc", ["a"]), TypeError, "Sliced: metric='auc' must be a Keras metric"),
        (lambda: metrics.Sliced(metrics.LogLoss(), ["a", "a"]), ValueError, "Sliced: slices=.* different names"),
    ],
)
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()

"""WarmupHoldDecay against a step-by-step simulation of the reference's scheduler."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dlrm.schedules import WarmupHoldDecay


def simulated(rate, warmup, start, length, steps):
    """Rates of steps 1, 2, …: the reference keeps the last rate that it computed and returns it while it holds."""
    last, out = rate, []
    for k in range(1, steps + 1):
        if k < warmup:
            last = rate * (1.0 - (warmup - k) / warmup)
        elif start <= k < start + length:
            last = max(1e-7, rate * ((length - (k - start)) / length) ** 2)
        elif length == 0:
            out.append(rate)
            continue
        out.append(last)
    return out


@pytest.mark.parametrize(
    "rate, warmup, start, length",
    [
        (0.1, 0, 0, 0),
        (0.1, 5, 0, 0),
        (0.1, 1, 0, 0),
        (24.0, 5, 5, 7),
        (24.0, 5, 9, 7),
        (0.1, 0, 4, 5),
        (0.1, 0, 0, 6),
        (0.1, 1, 4, 5),
        (0.1, 4, 6, 1),
        (1e-6, 2, 3, 9),
        (15.0, 8000, 70000, 30000),
    ],
)
def test_rates_equal_the_references_scheduler(rate, warmup, start, length):
    steps = start + length + warmup + 5
    probe = sorted(
        {*range(min(steps, 30)), *range(0, steps, 997), *(s for s in (warmup, start, start + length, steps))}
    )
    expected = np.array(simulated(rate, warmup, start, length, steps + 2))
    schedule = WarmupHoldDecay(rate, warmup, start, length)
    # A step is counted from 0 by Keras, from 1 by the reference.
    got = ops.convert_to_numpy(schedule(ops.convert_to_tensor(np.array(probe), "int32")))
    np.testing.assert_allclose(got, expected[probe], rtol=2e-5)


def test_a_single_step_is_a_scalar():
    assert np.shape(ops.convert_to_numpy(WarmupHoldDecay(0.1, 4, 4, 4)(2))) == ()


def test_config_round_trip_keeps_the_schedule():
    schedule = WarmupHoldDecay(0.1, 5, 9, 7)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(again, WarmupHoldDecay) and again.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"decay_steps": 1.5}, "decay_steps=1.5"),
        ({"decay_start_step": True}, "decay_start_step=True"),
        ({"warmup_steps": 5, "decay_start_step": 4, "decay_steps": 2}, "decay_start_step=4.*warm-up of 5"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        WarmupHoldDecay(**{"learning_rate": 0.1, **options})

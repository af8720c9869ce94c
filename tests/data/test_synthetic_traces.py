"""Stack distances, and traces whose measured profile is the asked one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dlrm.data.synthetic import StackProfile, Trace, TraceClickLog, stack_distances
from keras_dlrm.data.synthetic.trace import origins
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

# A distance to the asked profile that a right generator exceeds once in a million traces.
ALPHA = 1e-6


def bound(profile, n):
    """Cold starts, and the Dvoretzky-Kiefer-Wolfowitz bound on a sample's distribution."""
    return (profile.largest + 1) / n + np.sqrt(np.log(2 / ALPHA) / (2 * n))


def slow_distances(ids):
    last, out = {}, []
    for t, i in enumerate(ids):
        out.append(len(set(ids[last[i] + 1 : t])) if i in last else -1)
        last[i] = t
    return out


@given(st.lists(st.integers(-3, 12), max_size=80))
def test_stack_distances_count_the_different_ids_in_between(ids):
    assert stack_distances(np.array(ids, np.int64)).tolist() == slow_distances(ids)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=90))
def test_origins_are_where_a_list_says_that_its_elements_were(positions):
    everything = list(range(21))
    wanted = []
    for p in positions:
        wanted.append(everything.pop(p))
        everything.insert(0, wanted[-1])
    assert origins(np.array(positions)).tolist() == wanted


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 10)), min_size=1, max_size=6),
    st.sampled_from([0.01, 0.1, 0.5]),
    st.integers(0, 100),
)
def test_the_measured_profile_is_the_asked_one(buckets, cold, seed):
    widths, weights = [b[0] for b in buckets], [b[1] for b in buckets]
    asked = StackProfile(np.cumsum([0, *widths]), weights if any(weights) else [1] * len(weights), cold)
    n = 40_000
    ids = Trace(asked, 30_000, seed).draw(n)
    assert StackProfile.measured(ids, exact=True).difference(asked) < bound(asked, n)


@pytest.mark.parametrize(
    "asked", [StackProfile.power(1.0, 5000, 0.02), StackProfile.power(0.0, 2000, 0.2), StackProfile([7, 8], [1], 0.05)]
)
def test_locality_reaches_across_draws_and_does_not_depend_on_them(asked):
    n, steps = 65_000, [1, 0, 127, 60_536, 4336]
    whole, trace = Trace(asked, 50_000, seed=5).draw(n), Trace(asked, 50_000, seed=5)
    np.testing.assert_array_equal(np.concatenate([trace.draw(k) for k in steps]), whole)
    small = Trace(asked, 50_000, seed=5)
    batches = np.concatenate([small.draw(128) for _ in range(n // 128)])
    assert StackProfile.measured(batches, exact=True).difference(asked) < bound(asked, len(batches))
    # Were batches drawn independently, each would begin without memory.
    alone = np.concatenate([Trace(asked, 50_000, seed=[i]).draw(128) for i in range(8)])
    assert StackProfile.measured(alone).difference(asked) > 2 * bound(asked, n)


def test_a_measured_profile_is_given_back():
    source = np.random.default_rng(0).zipf(1.3, 60_000) % 5000
    asked = StackProfile.measured(source)
    found = StackProfile.measured(Trace(asked, 10_000, 1).draw(60_000))
    assert found.difference(asked) < bound(asked, 60_000)
    assert asked.difference(StackProfile.measured(source, exact=True)) < 0.01


def test_when_all_ids_are_in_use_the_least_recently_used_one_stands_for_a_new_one():
    ids = Trace(StackProfile([0, 1], [0.0], cold=1.0), 5, seed=0).draw(100_000)
    np.testing.assert_array_equal(ids[5:], ids[:-5])
    assert set(ids) == set(range(5))
    assert Trace(StackProfile([0, 1], [1.0], cold=0.0), 1).draw(3).tolist() == [0, 0, 0]


@pytest.mark.slow
def test_a_million_references_follow_a_long_profile():
    asked = StackProfile.power(0.8, 50_000, 0.1)
    ids = Trace(asked, 10**6, 0).draw(10**6)
    assert StackProfile.measured(ids, exact=True).difference(asked) < bound(asked, 10**6)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=200))
def test_profiles_survive_their_dictionary_and_count_all_distances(ids):
    profile = StackProfile.measured(ids, exact=True)
    again = StackProfile.from_dict(profile.to_dict())
    assert again.difference(profile) < 1e-12 and again.cold == profile.cold
    distances = stack_distances(ids)
    for d in (0, 3, 600):
        assert profile.cdf(d) == pytest.approx(((distances >= 0) & (distances <= d)).mean())
    assert profile.largest == distances.max()


def test_a_trace_log_has_the_asked_locality_at_each_table():
    schema = Schema(
        dense=["x"],
        categorical=[
            Categorical("a", 5000),
            Categorical("tags", 900, hotness=3),
            Categorical("last", 900, table="tags"),
        ],
    )
    asked = {"a": StackProfile.power(1.0, 100, 0.1), "tags": StackProfile.power(0.3, 50, 0.01)}
    log = TraceClickLog(schema, asked, seed=1)
    batches = list(log.batches(1000, rows=20_000))
    for batch, _ in batches:
        schema.validate(batch)
    sparse = np.concatenate([b["sparse"] for b, _ in batches])
    tags = sparse[:, 1:]
    for table, ids in (("a", sparse[:, 0]), ("tags", tags[tags != PADDING])):
        found = StackProfile.measured(ids, exact=True)
        assert found.difference(asked[table]) < bound(asked[table], len(ids)), table
    again = np.concatenate([b["sparse"] for b, _ in TraceClickLog(schema, asked, seed=1).batches(77, rows=2000)])
    np.testing.assert_array_equal(again, sparse[:2000])


def test_bad_profiles_and_traces_are_clear_errors():
    good = StackProfile([0, 1], [1], 0.1)
    schema = Schema(categorical=[Categorical("a", 5)])
    for make, message in [
        (lambda: StackProfile([0, 0], [1], 0.1), "increase"),
        (lambda: StackProfile([-1, 3], [1], 0.1), "increase"),
        (lambda: StackProfile([0, 1, 2], [1], 0.1), "3 edges for 1 weights"),
        (lambda: StackProfile([0, 1], [-1], 0.1), "not negative"),
        (lambda: StackProfile([0, 1], [0], 0.1), "not all 0"),
        (lambda: StackProfile([0, 1], [np.nan], 0.1), "finite"),
        (lambda: StackProfile([0, 1], [1], 1.1), "cold=1.1"),
        (lambda: StackProfile.measured([]), "empty"),
        (lambda: stack_distances([[1]]), "shape"),
        (lambda: stack_distances([0.5]), "integers"),
        (lambda: Trace("x", 5), "must be a StackProfile"),
        (lambda: Trace(good, 0), "vocabulary_size=0"),
        (lambda: Trace(good, 5).draw(-1), "n=-1"),
        (lambda: TraceClickLog(schema, 3), "profile of table 'a'"),
        (lambda: TraceClickLog(Schema(dense=["x"]), good), "no sparse column"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(KeyError, match="'z'"):
        TraceClickLog(schema, {"z": good})

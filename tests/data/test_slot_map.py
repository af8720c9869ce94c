"""`SlotMap` against dictionaries, and what it refuses."""

import hypothesis
import numpy as np
import pytest
from helpers.dict_slots import DictSlots
from hypothesis import strategies as st

from keras_dlrm.data.slot_map import SlotMap

pytestmark = pytest.mark.neutral
IDS = st.one_of(st.integers(-3, 60), st.sampled_from([2**31 - 1, 2**31, 2**40, 2**62 + 5, 2**63 - 1]))


def same(slots, expected, batches, now=None):
    for i, ids in enumerate(batches):
        time = None if now is None else now[i % len(now)]
        out, replaced = slots.assign(np.array(ids, np.int64), time)
        rows, moves = expected.assign([int(i) for i in ids], time)
        assert out.tolist() == rows
        assert list(zip(replaced.slots.tolist(), replaced.before.tolist(), replaced.after.tolist(), strict=True)) == moves
    assert {i: s for s, i in zip(range(1, slots.rows), slots.identities.ravel().tolist(), strict=True) if i >= 0} == expected.slot
    counts = slots.occupied, slots.admitted, slots.evicted, slots.collisions
    assert counts == (len(expected.slot), expected.admitted, expected.evicted, expected.collisions)


@pytest.mark.slow
@hypothesis.given(
    batches=st.lists(st.lists(IDS, max_size=12), max_size=12), rows=st.integers(1, 24), ways=st.sampled_from([1, 2, 4]),
    evict=st.sampled_from(["lru", "lfu"]), ttl=st.none() | st.integers(1, 5), admit=st.integers(1, 3),
    now=st.none() | st.lists(st.integers(0, 30), min_size=1, max_size=8),
)  # fmt: skip
def test_slots_victims_and_admission_are_those_of_dictionaries(batches, rows, ways, evict, ttl, admit, now):
    options = {"ways": ways, "evict": evict, "ttl": ttl, "admit": admit}
    same(SlotMap(rows, **options), DictSlots(rows, **options), batches, now)


def drifting(events, batch, seed=0):
    """Batches of ids whose popular ones change with time."""
    rng = np.random.default_rng(seed)
    for start in range(0, events, batch):
        yield rng.zipf(1.3, batch) % 20_000 + start // 10


@pytest.mark.parametrize("options", [{"evict": "lru"}, {"evict": "lfu", "admit": 3, "ttl": 40}], ids=str)
def test_a_drifting_stream_has_the_slots_of_dictionaries(options):
    same(SlotMap(1000, **options), DictSlots(1000, **options), drifting(20_000, 500))


@pytest.mark.soak
@pytest.mark.parametrize("options", [{"evict": "lru"}, {"evict": "lfu", "admit": 5, "ttl": 400}], ids=str)
def test_ten_million_events_have_the_slots_of_dictionaries(options):
    same(SlotMap(50_000, **options), DictSlots(50_000, **options), drifting(10_000_000, 5_000))


def test_find_changes_nothing():
    slots = SlotMap(32, admit=2)
    slots.assign(np.array([5, 5, 6]))
    before = slots.state()
    assert slots.find(np.array([[5, 6], [-1, 99]])).tolist() == [[slots.assign(np.array([5]))[0][0], 0], [-1, 0]]
    restored = SlotMap(32, admit=2)
    restored.restore(before)
    restored.find(np.arange(100))
    assert all((array == before[name]).all() for name, array in restored.state().items())


def test_ids_of_a_batch_never_make_way_for_each_other():
    slots = SlotMap(4, ways=4)
    slots.assign(np.array([1, 2, 3]))
    out, replaced = slots.assign(np.array([10, 11, 1, 2, 3]))
    assert (out[2:] > 0).all() and out[0] > 0 and out[1] == 0 and slots.collisions == 1 and len(replaced.slots) == 1


def test_an_id_that_was_not_used_for_ttl_is_new():
    slots = SlotMap(16, ttl=10)
    slots.assign(np.array([7]), now=100)
    assert slots.assign(np.array([7]), now=110)[1].slots.size == 0
    assert slots.assign(np.array([7]), now=121)[1].after.tolist() == [7]
    assert slots.assign(np.array([7]), now=5)[1].slots.size == 0 and slots.now == 121  # a clock that runs backwards stands


@pytest.mark.parametrize("options", [{}, {"evict": "lfu", "admit": 2, "ttl": 7}], ids=str)
def test_a_restored_map_continues_as_the_first_one(options):
    batches = list(drifting(8_000, 200, seed=1))
    first, second = SlotMap(300, **options), SlotMap(300, **options)
    for ids in batches[:20]:
        first.assign(ids)
    second.restore(first.state())
    for ids in batches[20:]:
        (a, moved), (b, again) = first.assign(ids), second.assign(ids)
        assert (a == b).all() and (moved.before == again.before).all()
    assert all((array == second.state()[name]).all() for name, array in first.state().items())


def test_what_it_refuses():
    with pytest.raises(ValueError, match="SlotMap: 'identities' of the state has shape .2, 16.; .* it is .3, 16."):
        SlotMap(48).restore(SlotMap(32).state())
    with pytest.raises(ValueError, match="evict='fifo' is unknown"):
        SlotMap(8, evict="fifo")
    with pytest.raises(ValueError, match="admit=256 must be an integer in 1"):
        SlotMap(8, admit=256)
    with pytest.raises(TypeError, match="dtype <U1; they must be integers. Hash texts"):
        SlotMap(8).assign(np.array(["a"]))

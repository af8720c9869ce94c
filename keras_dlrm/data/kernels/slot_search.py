"""Compiled loops of `SlotMap`: search of buckets, choice of victims, counts of ids that have no slot."""

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled
from keras_dlrm.data.kernels.id_rows import mixed
from keras_dlrm.schema.hashing import LARGEST

#: What is known of the use of a slot: when, how often, and by which batch last.
SEEN, COUNT, BATCH = 0, 1, 2
#: Places of the totals.
ADMITTED, EVICTED, COLLISIONS = 0, 1, 2


@compiled
def use(memory, ways, sketch, ids, now, oldest, lfu, admit, batch, out, replaced, before, after, totals):  # type: ignore[no-untyped-def]
    """Slots of a batch's ids, which are inserted in order of appearance where they are new.

    Args:
        memory: int64 (buckets, 4 · ways): the ids of a bucket's slots, -1 where there is none, and then the use of each slot:
            `SEEN`, `COUNT`, `BATCH`; changed.
        ways: Slots of a bucket.
        sketch: uint8 (a power of two, 64), changed.
        ids: int64 (n,).
        now: This batch's time. Slots that were last used before `oldest` are forgotten.
        lfu: Whether the victim is the least frequently used slot, rather than the least recently used one.
        admit: Uses from which on an id gets a slot.
        batch: Number of the batch, other than the last one's.
        out: int32 (n,): slots from 1 on; 0 for an id without one, -1 for padding.
        replaced, before, after: int32, int64 and int64 (n,): slots that get another id, the ids that they had, and those that they
            have, in their first places.
        totals: int64 (3,), added up.

    Returns:
        How many slots get another id, and how many of the ids are some.
    """
    # Three loops rather than one: none of them waits for memory to know what it does next, so that many reads are under way.
    buckets = np.empty(len(ids), np.int64)
    for i in range(len(ids)):
        buckets[i] = _bucket(max(ids[i], 0), len(memory))
    for i in range(len(ids)):
        out[i] = _way(memory, ways, buckets[i], ids[i])
    # What the batch uses is marked before anything is inserted, so that none of it makes way for the rest.
    missing, uses, count = 0, len(ids), 0
    for i in range(len(ids)):
        if ids[i] < 0:
            out[i] = -1 if ids[i] == -1 else 0
            uses -= 1
            continue
        bucket, way = buckets[i], out[i]
        use = ways + 3 * way
        if way >= 0 and memory[bucket, use + SEEN] < oldest:
            if memory[bucket, way] == ids[i]:  # not forgotten by an earlier place of the batch
                memory[bucket, way] = -1
                totals[EVICTED] += 1
            way = -1
        if way < 0:
            out[i] = -2
            missing += 1
            continue
        memory[bucket, use + SEEN] = now
        memory[bucket, use + COUNT] += 1
        memory[bucket, use + BATCH] = batch
        out[i] = 1 + bucket * ways + way
    if missing == 0:
        return count, uses
    for i in range(len(ids)):
        if out[i] != -2:
            continue
        bucket = buckets[i]
        way = _way(memory, ways, bucket, ids[i])
        if way >= 0:  # inserted for an earlier place of the batch
            memory[bucket, ways + 3 * way + COUNT] += 1
            out[i] = 1 + bucket * ways + way
            continue
        times = 1 if admit <= 1 else _counted(sketch, ids[i])
        out[i] = 0
        if times < admit:
            continue
        way = _victim(memory, ways, bucket, oldest, lfu, batch)
        if way < 0:
            totals[COLLISIONS] += 1
            continue
        out[i] = 1 + bucket * ways + way
        replaced[count], before[count], after[count] = out[i], memory[bucket, way], ids[i]
        count += 1
        totals[ADMITTED] += 1
        totals[EVICTED] += memory[bucket, way] >= 0
        use = ways + 3 * way
        memory[bucket, way] = ids[i]
        memory[bucket, use + SEEN] = now
        memory[bucket, use + COUNT] = times
        memory[bucket, use + BATCH] = batch
    return count, uses


@compiled
def find(memory, ways, ids, out):  # type: ignore[no-untyped-def]
    """Slots of ids: int32 `out`, 0 for an id without one, -1 for padding. Nothing else changes."""
    for i in range(len(ids)):
        out[i] = -1 if ids[i] == -1 else 0
        if ids[i] >= 0:
            bucket = _bucket(ids[i], len(memory))
            way = _way(memory, ways, bucket, ids[i])
            if way >= 0:
                out[i] = 1 + bucket * ways + way


@compiled
def halve(memory, ways, sketch):  # type: ignore[no-untyped-def]
    """Halve all counts, so that what was used often long ago makes way."""
    for bucket in range(len(memory)):
        for way in range(ways):
            memory[bucket, ways + 3 * way + COUNT] >>= 1
    for line in range(len(sketch)):
        for column in range(sketch.shape[1]):
            sketch[line, column] >>= 1


@compiled
def _way(memory, ways, bucket, key):  # type: ignore[no-untyped-def]
    """The way of an id in its bucket, or -1: all are compared, as to stop at the right one is guessed wrong by the processor."""
    sum_of_one = 0
    for way in range(ways):
        sum_of_one += way + 1 if memory[bucket, way] == key else 0
    return sum_of_one - 1


@compiled
def _victim(memory, ways, bucket, oldest, lfu, batch):  # type: ignore[no-untyped-def]
    """The way that an id is put into: the first empty one, else one that the batch does not use; -1 where it uses all."""
    victim, forgotten = -1, False
    for way in range(ways):
        if memory[bucket, way] < 0:
            return way
        use, other = ways + 3 * way, ways + 3 * victim
        if memory[bucket, use + BATCH] == batch:
            continue
        seen = memory[bucket, use + SEEN]
        if seen < oldest:
            # The first one that is too old to stay, before any other.
            if not forgotten or seen < memory[bucket, other + SEEN]:
                victim, forgotten = way, True
            continue
        if forgotten:
            continue
        if victim < 0:
            victim = way
            continue
        if lfu and memory[bucket, use + COUNT] != memory[bucket, other + COUNT]:
            if memory[bucket, use + COUNT] < memory[bucket, other + COUNT]:
                victim = way
        elif seen < memory[bucket, other + SEEN]:
            victim = way
    return victim


@compiled
def _bucket(key, buckets):  # type: ignore[no-untyped-def]
    """Bucket of an id, as `embeddings.table_rows.bucket` finds it in a graph."""
    low = np.uint64(key)
    if key > LARGEST:
        low = (np.uint64(key) ^ _mixed(np.uint64(key >> 31) & np.uint64(LARGEST))) & np.uint64(LARGEST)
    return np.int64(_mixed(low) & np.uint64(LARGEST)) % buckets


@compiled
def _mixed(x):  # type: ignore[no-untyped-def]
    """Compiled `keras_dlrm.schema.hashing.mix`."""
    word = np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & word
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & word
    return x ^ (x >> np.uint64(16))


@compiled
def _counted(sketch, key):  # type: ignore[no-untyped-def]
    """Count one use of an id in a count-min sketch, and give the uses of it so far: never too few of them, but for `halve`."""
    # A line of the processor's cache has four rows of 16 counters, and an id one of each: one read from memory rather than four.
    x = mixed(np.uint64(key) + np.uint64(0x9E3779B97F4A7C15))
    line = np.int64((x >> np.uint64(32)) & np.uint64(len(sketch) - 1))
    least = np.int64(255)
    for row in range(4):
        least = min(least, np.int64(sketch[line, _counter(x, row)]))
    if least == 255:
        return least
    # Only the smallest counters go up: the others count other ids, too.
    for row in range(4):
        if sketch[line, _counter(x, row)] == least:
            sketch[line, _counter(x, row)] += np.uint8(1)
    return least + 1


@compiled
def _counter(x, row):  # type: ignore[no-untyped-def]
    return 16 * row + np.int64((x >> np.uint64(4 * row)) & np.uint64(15))

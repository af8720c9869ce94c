"""Compiled loops of `SlotMap`: search of buckets, choice of victims, counts of ids that have no slot."""

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled
from keras_dlrm.schema.hashing import LARGEST

#: What is known of the use of a slot: when, how often, and by which batch last.
SEEN, COUNT, BATCH = 0, 1, 2
#: Places of the totals.
ADMITTED, EVICTED, COLLISIONS = 0, 1, 2


@compiled
def use(known, used, sketch, ids, now, oldest, lfu, admit, batch, out, replaced, before, totals):  # type: ignore[no-untyped-def]
    """Slots of a batch's ids, which are inserted in order of appearance where they are new.

    Args:
        known: int64 (buckets, ways), the ids of the slots, -1 where there is none; changed.
        used: int64 (buckets, ways, 3), the use of the slots; changed.
        sketch: uint8 (rows, a power of two), changed; of width 1 where every id is admitted.
        ids: int64 (n,).
        now: This batch's time. Slots that were last used before `oldest` are forgotten.
        lfu: Whether the victim is the least frequently used slot, rather than the least recently used one.
        admit: Uses from which on an id gets a slot.
        batch: Number of the batch, other than the last one's.
        out: int32 (n,): slots from 1 on; 0 for an id without one, -1 for padding.
        replaced, before: int32 and int64 (n,): slots that get another id, and the ids that they had, in their first places.
        totals: int64 (3,), added up.

    Returns:
        How many slots get another id.
    """
    buckets, ways = known.shape
    missing = 0
    # What the batch uses is marked before anything is inserted, so that none of it makes way for the rest.
    for i in range(len(ids)):
        if ids[i] < 0:
            out[i] = -1 if ids[i] == -1 else 0
            continue
        bucket = _bucket(ids[i], buckets)
        way = _way(known, bucket, ids[i])
        if way >= 0 and used[bucket, way, SEEN] < oldest:
            known[bucket, way] = -1
            totals[EVICTED] += 1
            way = -1
        if way < 0:
            out[i] = -2
            missing += 1
            continue
        used[bucket, way, SEEN] = now
        used[bucket, way, COUNT] += 1
        used[bucket, way, BATCH] = batch
        out[i] = 1 + bucket * ways + way
    count = 0
    if missing == 0:
        return count
    for i in range(len(ids)):
        if out[i] != -2:
            continue
        bucket = _bucket(ids[i], buckets)
        way = _way(known, bucket, ids[i])
        if way >= 0:  # inserted for an earlier place of the batch
            used[bucket, way, COUNT] += 1
            out[i] = 1 + bucket * ways + way
            continue
        uses = 1 if admit <= 1 else _counted(sketch, ids[i])
        out[i] = 0
        if uses < admit:
            continue
        way = _victim(known, used, bucket, oldest, lfu, batch)
        if way < 0:
            totals[COLLISIONS] += 1
            continue
        out[i] = 1 + bucket * ways + way
        replaced[count] = out[i]
        before[count] = known[bucket, way]
        count += 1
        totals[ADMITTED] += 1
        totals[EVICTED] += known[bucket, way] >= 0
        known[bucket, way] = ids[i]
        used[bucket, way, SEEN] = now
        used[bucket, way, COUNT] = uses
        used[bucket, way, BATCH] = batch
    return count


@compiled
def find(known, ids, out):  # type: ignore[no-untyped-def]
    """Slots of ids: int32 `out`, 0 for an id without one, -1 for padding. Nothing else changes."""
    ways = known.shape[1]
    for i in range(len(ids)):
        out[i] = -1 if ids[i] == -1 else 0
        if ids[i] >= 0:
            bucket = _bucket(ids[i], known.shape[0])
            way = _way(known, bucket, ids[i])
            if way >= 0:
                out[i] = 1 + bucket * ways + way


@compiled
def halve(used, sketch):  # type: ignore[no-untyped-def]
    """Halve all counts, so that what was used often long ago makes way."""
    for bucket in range(used.shape[0]):
        for way in range(used.shape[1]):
            used[bucket, way, COUNT] >>= 1
    for row in range(sketch.shape[0]):
        for column in range(sketch.shape[1]):
            sketch[row, column] >>= 1


@compiled
def _way(known, bucket, key):  # type: ignore[no-untyped-def]
    for way in range(known.shape[1]):
        if known[bucket, way] == key:
            return way
    return -1


@compiled
def _victim(known, used, bucket, oldest, lfu, batch):  # type: ignore[no-untyped-def]
    """The way that an id is put into: the first empty one, else one that the batch does not use; -1 where it uses all."""
    victim, forgotten = -1, False
    for way in range(known.shape[1]):
        if known[bucket, way] < 0:
            return way
        if used[bucket, way, BATCH] == batch:
            continue
        seen = used[bucket, way, SEEN]
        if seen < oldest:
            # The first one that is too old to stay, before any other.
            if not forgotten or seen < used[bucket, victim, SEEN]:
                victim, forgotten = way, True
            continue
        if forgotten:
            continue
        if victim < 0:
            victim = way
            continue
        if lfu and used[bucket, way, COUNT] != used[bucket, victim, COUNT]:
            if used[bucket, way, COUNT] < used[bucket, victim, COUNT]:
                victim = way
        elif seen < used[bucket, victim, SEEN]:
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
    # splitmix64; two halves of its result make the hashes of all rows.
    x = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    first, step = x & np.uint64(0xFFFFFFFF), (x >> np.uint64(32)) | np.uint64(1)
    mask = np.uint64(sketch.shape[1] - 1)
    least = np.int64(255)
    for row in range(sketch.shape[0]):
        column = np.int64((first + np.uint64(row) * step) & mask)
        if sketch[row, column] < least:
            least = np.int64(sketch[row, column])
    if least == 255:
        return least
    # Only the smallest counters go up: the others count other ids, too.
    for row in range(sketch.shape[0]):
        column = np.int64((first + np.uint64(row) * step) & mask)
        if sketch[row, column] == least:
            sketch[row, column] += np.uint8(1)
    return least + 1

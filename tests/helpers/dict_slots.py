"""`SlotMap` once more, from Python dictionaries: what its tests expect."""

import functools

import numpy as np

from keras_dlrm.schema.hashing import LARGEST, fold, mix

WORD = 2**64 - 1


@functools.cache
def bucket_of(key: int, buckets: int) -> int:
    """Bucket of an id, by the package's NumPy hash."""
    return (int(mix(fold(np.array([key])).astype(np.uint32))[0]) & LARGEST) % buckets


class DictSlots:
    """The rules of `SlotMap` in the order of its documentation, one id after the other."""

    def __init__(self, rows, ways=16, evict="lru", ttl=None, admit=1):
        self.ways, self.buckets = ways, -(-rows // ways)
        self.evict, self.ttl, self.admit = evict, ttl, admit
        self.slot, self.id_of, self.seen, self.count, self.sketch = {}, {}, {}, {}, {}
        self.lines = 1
        while 16 * self.lines < 4 * self.ways * self.buckets:
            self.lines *= 2
        self.now = self.uses = self.admitted = self.evicted = self.collisions = 0

    def forget(self, key):
        slot = self.slot.pop(key)
        for table in (self.id_of, self.seen, self.count):
            del table[slot]
        self.evicted += 1

    def counted(self, key):
        x = (key + 0x9E3779B97F4A7C15) & WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
        x ^= x >> 31
        places = [((x >> 32) % self.lines, row, (x >> 4 * row) % 16) for row in range(4)]
        least = min(self.sketch.get(place, 0) for place in places)
        for place in places:
            if self.sketch.get(place, 0) == least < 255:
                self.sketch[place] = least + 1
        return min(least + 1, 255)

    def assign(self, ids, now=None):
        if self.uses >= 10 * self.ways * self.buckets:
            self.sketch = {place: n // 2 for place, n in self.sketch.items()}
            self.count = {slot: n // 2 for slot, n in self.count.items()}
            self.uses = 0
        self.now = self.now + 1 if now is None else max(now, self.now)
        self.uses += sum(key >= 0 for key in ids)
        out, replaced, in_batch = [None] * len(ids), [], set()
        for i, key in enumerate(ids):
            if key in self.slot and self.ttl is not None and self.seen[self.slot[key]] < self.now - self.ttl:
                self.forget(key)
            if key < 0:
                out[i] = -1 if key == -1 else 0
            elif key in self.slot:
                out[i] = self.slot[key]
                in_batch.add(out[i])
                self.seen[out[i]], self.count[out[i]] = self.now, self.count[out[i]] + 1
        for i, key in enumerate(ids):
            if out[i] is None:
                out[i] = self.insert(key, in_batch, replaced)
        return out, replaced

    def insert(self, key, in_batch, replaced):
        if key in self.slot:
            self.count[self.slot[key]] += 1
            return self.slot[key]
        uses = self.counted(key) if self.admit > 1 else 1
        if uses < self.admit:
            return 0
        first = 1 + bucket_of(key, self.buckets) * self.ways
        slots = range(first, first + self.ways)
        empty = [slot for slot in slots if slot not in self.id_of]
        free = [slot for slot in slots if slot not in in_batch]
        old = [slot for slot in free if self.ttl is not None and slot in self.seen and self.seen[slot] < self.now - self.ttl]
        if empty:
            slot = empty[0]
        elif old:
            slot = min(old, key=lambda s: (self.seen[s], s))
        elif free:
            slot = min(free, key=lambda s: (self.count[s] if self.evict == "lfu" else 0, self.seen[s], s))
        else:
            self.collisions += 1
            return 0
        before = self.id_of.get(slot, -1)
        if before >= 0:
            self.forget(before)
        replaced.append((slot, before, key))
        self.slot[key], self.id_of[slot], self.seen[slot], self.count[slot] = slot, key, self.now, uses
        self.admitted += 1
        in_batch.add(slot)
        return slot

"""Caches of host tables of several sizes, as the planner tries them on a log."""

from collections import OrderedDict

import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.sharding.planner.host_caches import host_caches
from keras_dlrm.sharding.planner.workload import Workload

pytestmark = pytest.mark.neutral
SCHEMA = kd.Schema(["I1"], [kd.Categorical("user", 300), kd.Categorical("tags", 50, hotness=2)], "click")


def batches(n):
    rng = np.random.default_rng(0)
    for _ in range(n):
        yield {"sparse": np.stack([(300 * rng.random(16) ** 3).astype(int), *rng.integers(-1, 50, (2, 16))], axis=1)}


def test_misses_are_those_of_a_least_recently_used_cache():
    work = Workload.of(SCHEMA, 8, global_batch=16)
    caches = host_caches(work, batches(20), (0.1, 0.5, 1.0))
    for cache in caches:
        held, misses, lookups = OrderedDict(), 0, 0
        for batch in batches(20):
            rows = [("user", u) for u in batch["sparse"][:, 0]] + [("tags", t) for t in batch["sparse"][:, 1:].ravel() if t >= 0]
            lookups += len(rows)
            for row in sorted(set(rows), key=lambda row: (row[0] == "tags", row[1])):  # as the rows of the stack
                misses += row not in held
                held[row] = None
                held.move_to_end(row)
                if len(held) > cache.device_rows:
                    held.popitem(last=False)
        assert cache.misses == misses / 20
        assert cache.hits == pytest.approx(1 - misses / lookups)
    assert [cache.device_rows for cache in caches] == [35, 175, 350]
    assert caches[0].device_bytes == 35 * 8 * 8
    assert caches[0].file_bytes == 350 * 8 * 8
    assert caches[0].step_seconds > caches[1].step_seconds > caches[2].step_seconds


def test_a_sample_without_rows():
    with pytest.raises(ValueError, match="the sample looks up no row"):
        host_caches(Workload.of(SCHEMA, 8), [])


def test_tables_that_host_tables_cannot_be():
    with pytest.raises(ValueError, match="no quotient_remainder and no open vocabulary"):
        host_caches(Workload.of(SCHEMA, 8, quotient_remainder={"collisions": 4, "threshold": 100}), batches(1))

"""Rows on servers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.parameter_server.placement import default_plan, for_servers, split
from keras_dlrm.sharding.plan import KINDS, Placement, ShardingPlan, place

pytestmark = pytest.mark.neutral

SIZES = {"a": 100, "b": 7, "c": 3, "d": 40}
SHAPES = {name: (rows, 4) for name, rows in SIZES.items()}


def collection():
    schema = kd.Schema(categorical=[kd.Categorical(name, rows) for name, rows in SIZES.items()])
    return kd.layers.EmbeddingCollection(schema, 4, seed=0)


@given(st.fixed_dictionaries({name: st.sampled_from(KINDS) for name in SIZES}), st.integers(1, 5), st.integers(1, 5))
def test_every_row_lies_on_one_server_and_no_place_is_empty(kinds, world_size, servers):
    plan = for_servers(place(world_size, SHAPES, kinds), servers)
    (where,) = split(collection().stacks, plan)
    ids = np.arange(sum(SIZES.values()))
    piece = np.searchsorted(where.start, ids, side="right") - 1
    places = list(zip(where.server[piece].tolist(), (ids + where.shift[piece]).tolist(), strict=True))
    assert sorted(places) == [(k, row) for k, rows in enumerate(where.rows) for row in range(rows)]


def test_replicated_tables_go_whole_to_the_emptiest_server_and_column_parts_become_row_parts():
    kinds = {"a": Placement("table_wise", (0,)), "b": Placement("replicate"), "c": Placement("column_wise", (1, 0))}
    plan = for_servers(ShardingPlan(2, {name: SHAPES[name] for name in kinds}, kinds), 2)
    assert plan.placements == {
        "a": Placement("table_wise", (0,)), "b": Placement("table_wise", (1,)), "c": Placement("row_wise", (1, 0)),
    }  # fmt: skip


def test_tables_of_a_mebibyte_are_spread_by_default():
    kinds = default_plan({"small": (100, 16), "large": (1 << 14, 16)}, 3).placements
    assert {name: len(placement.ranks) for name, placement in kinds.items()} == {"small": 1, "large": 3}


def test_a_plan_for_other_tables_is_refused():
    plan = place(2, {**SHAPES, "a": (99, 4)}, dict.fromkeys(SIZES, "row_wise"))
    with pytest.raises(ValueError, match=r"'a' has \(rows, width\) \(100, 4\) in the model, \(99, 4\) in the plan"):
        split(collection().stacks, plan)

"""Plans: what they hold, refuse, and keep through JSON and other numbers of processes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.sharding.plan import KINDS, Placement, ShardingPlan, kind_of, place

pytestmark = pytest.mark.neutral

SHAPES = {"a": (10, 4), "b": (7, 6)}


@st.composite
def plans(draw):
    """Some tables over some processes."""
    world = draw(st.integers(1, 6))
    shapes, placements = {}, {}
    for i in range(draw(st.integers(1, 5))):
        rows, width = draw(st.integers(1, 50)), draw(st.sampled_from([1, 2, 4, 6]))
        kind = draw(st.sampled_from(KINDS))
        count = {
            "replicate": st.just(0),
            "table_wise": st.just(1),
            "row_wise": st.integers(1, min(rows, 9)),
            "column_wise": st.sampled_from([n for n in range(1, width + 1) if width % n == 0]),
        }[kind]
        parts = draw(count)
        ranks = draw(st.lists(st.integers(0, world - 1), min_size=parts, max_size=parts))
        shapes[f"t{i}"], placements[f"t{i}"] = (rows, width), Placement(kind, tuple(ranks))
    return ShardingPlan(world, shapes, placements)


@given(plans())
def test_the_parts_of_a_table_cover_it_once(plan):
    for name, (rows, width) in plan.shapes.items():
        cells = [(r, c) for s in plan.shards(name) for r in range(s.start, s.stop) for c in range(s.first, s.last)]
        assert sorted(cells) == [(r, c) for r in range(rows) for c in range(width)]


@given(plans())
def test_json_gives_the_same_plan_back(plan):
    again = ShardingPlan.from_dict(plan.to_dict())
    assert again == plan and hash(again) == hash(plan)


@given(plans(), st.integers(1, 8))
def test_kinds_stay_for_another_number_of_processes(plan, world):
    other = plan.for_world(world)
    assert other.world_size == world and other.shapes == plan.shapes
    assert {n: p.kind for n, p in other.placements.items()} == {n: p.kind for n, p in plan.placements.items()}
    assert all(rank < world for p in other.placements.values() for rank in p.ranks)


@given(plans())
def test_bytes_of_all_processes_are_those_of_all_tables_and_their_copies(plan):
    copies = {name: plan.world_size if p.kind == "replicate" else 1 for name, p in plan.placements.items()}
    held = sum(plan.table_bytes(rank) for rank in range(plan.world_size))
    assert held == sum(copies[name] * 4 * rows * width for name, (rows, width) in plan.shapes.items())


def test_whole_tables_go_to_where_the_fewest_bytes_lie():
    shapes = {"small": (1, 4), "big": (100, 4), "middle": (60, 4), "other": (30, 4)}
    plan = place(2, shapes, dict.fromkeys(shapes, "table-wise"))
    assert {name: p.ranks for name, p in plan.placements.items()} == {
        "small": (1,), "big": (0,), "middle": (1,), "other": (1,),
    }  # fmt: skip


def test_a_saved_plan_is_loaded_and_an_error_names_the_file(tmp_path):
    plan = place(2, SHAPES, {"a": "row_wise", "b": "column_wise"})
    plan.save(tmp_path / "p.json")
    assert ShardingPlan.load(tmp_path / "p.json") == plan
    (tmp_path / "q.json").write_text('{"world_size": 2}')
    with pytest.raises(ValueError, match=r"q\.json: ShardingPlan: not a plan"):
        ShardingPlan.load(tmp_path / "q.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match=r"r\.json: not a plan, which is JSON"):
        ShardingPlan.load(tmp_path / "r.json")


@pytest.mark.parametrize("entry", [{"shardin": "row_wise"}, {"ranks": [0]}, {"sharding": "row_wise", "ranks": 1}])
def test_an_entry_that_is_none_is_refused(entry, tmp_path):
    """One that is misspelt would be another plan."""
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"tables": {"a": entry}}))
    with pytest.raises(ValueError, match=r"p\.json: ShardingPlan: table 'a' has \{.*\}; give sharding, one of"):
        ShardingPlan.load(path, SHAPES, 2)


def test_what_a_file_says_is_kept_and_the_rest_is_placed(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"world_size": 2, "tables": {"a": {"sharding": "table_wise", "ranks": [1]}}}')
    plan = ShardingPlan.load(path, SHAPES, 2)
    assert plan.placements["a"].ranks == (1,) and plan.placements["b"].ranks == (0,)
    assert ShardingPlan.load(path, SHAPES, 1).placements["a"].ranks == (0,)
    with pytest.raises(ValueError, match="it needs world_size and tables"):
        ShardingPlan.load(path)
    path.write_text('{"tables": {"a": {"sharding": "table_wise", "rows": 7}}}')
    with pytest.raises(ValueError, match=r"'a' has \(rows, width\) \(7, .*\) there, .* in the model"):
        ShardingPlan.load(path, SHAPES, 2)


@pytest.mark.parametrize(
    ("placements", "words"),
    [
        ({"a": Placement("replicate")}, "'b' has no placement"),
        ({"a": Placement("replicate"), "b": Placement("table_wise", (2,))}, "part on rank 2"),
        ({"a": Placement("column_wise", (0, 1, 0)), "b": Placement("replicate")}, "3 equal parts by columns"),
        ({"a": Placement("row_wise", (0, 1) * 6), "b": Placement("replicate")}, "too few for 12 parts"),
        ({"a": Placement("replicate"), "b": Placement("replicate"), "c": Placement("replicate")}, "'c' has no shape"),
    ],
)
def test_impossible_plans_are_refused(placements, words):
    with pytest.raises(ValueError, match=words):
        ShardingPlan(2, SHAPES, placements)


@pytest.mark.parametrize(("kind", "ranks"), [("replicate", (0,)), ("table_wise", (0, 1)), ("row_wise", ())])
def test_placements_have_the_ranks_that_their_kind_needs(kind, ranks):
    with pytest.raises(ValueError, match="a replicated table has no ranks"):
        Placement(kind, ranks)


def test_kinds_are_known_by_several_spellings():
    assert [kind_of(name) for name in ("row-wise", "Table Wise", "replicated", "data_parallel")] == [
        "row_wise", "table_wise", "replicate", "replicate",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="sharding 'grid' is unknown"):
        kind_of("grid")


def test_the_public_names_are_there():
    assert kd.sharding.ShardingPlan is ShardingPlan and callable(kd.plan)

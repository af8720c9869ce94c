"""Numbers of the layout, applied in NumPy: every process looks up its parts, and pooled vectors come out whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.sharding.compression import OPERATIONS, QuotientRemainder
from keras_dlrm.sharding.layout import layout
from keras_dlrm.sharding.plan import KINDS, Placement, ShardingPlan, place
from keras_dlrm.sharding.planner.costs import traffic
from keras_dlrm.sharding.stacking import split_tables, stack_tables

pytestmark = pytest.mark.neutral


def stacks_of(schema, widths, split=None):
    """The stacks of a schema's tables."""
    return stack_tables(schema, split_tables(schema, widths, split, None), split)


def shapes_of(stacks):
    """Rows and width of each stored table."""
    return {table.name: (table.rows, table.width) for stack in stacks for table in stack.tables}


def table_rows(stacks, sparse):
    """The row of its table that each id asks for, stack alongside stack; -1 for padding."""
    found = []
    for stack in stacks:
        ids = sparse if stack.take is None else sparse[:, stack.take]
        rows = ids // stack.per_position["divisor"] % stack.per_position["modulus"]
        found.append(np.where(ids < 0, -1, rows))
    return np.concatenate(found, axis=1)


def exchanged(found, tables, stacks, rows):
    """The vectors of each stack, as the layout has them looked up, sent and put together."""
    answers = []
    for group in found.groups:
        n = group.take.shape[0]
        variables = np.full((n, group.rows, group.width), np.nan)
        for shard, first in group.placed:
            part = tables[shard.table][shard.start : shard.stop, shard.first : shard.last]
            variables[shard.rank or 0, first : first + shard.rows] = part
        outputs = np.zeros((len(rows), n, group.outputs + 1, group.width))
        for rank in range(n):
            for p in range(group.positions):
                row = rows[:, group.take[rank, p]]
                mine = (row >= group.low[rank, p]) & (row < group.high[rank, p])
                at = np.where(mine, row - group.low[rank, p] + group.start[rank, p], 0)
                outputs[:, rank, group.segment[rank, p]] += np.where(mine[:, None], variables[rank, at], 0)
        answers.append(outputs[:, :, : group.outputs].reshape(len(rows), n * group.outputs, group.width))
    by_stack = []
    for stack, made in zip(stacks, found.made, strict=True):
        vectors = np.full((len(rows), sum(len(part.vectors) for part in made), stack.width), np.nan)
        for part in made:
            parts = answers[part.group][:, part.index].sum(axis=3)  # row parts are added
            vectors[:, part.vectors] = parts.reshape(len(rows), len(part.vectors), stack.width)
        by_stack.append(vectors)
    return by_stack


def pooled(found, tables, stacks, rows, split):
    """Per sparse column, its pooled vector: from the exchanged ones, and straight from the tables."""
    ours, direct = {}, {}
    operation = split and split.operation
    first = 0
    for stack, vectors in zip(stacks, exchanged(found, tables, stacks, rows), strict=True):
        names = list(stack.starts)
        table = np.searchsorted(list(stack.starts.values()), stack.per_position["start"], side="right") - 1
        own = rows[:, first : first + stack.positions]
        first += stack.positions
        at = 0
        for block in stack.blocks:
            n, h = len(block.columns), block.hotness
            together = 1 if block.second is not None and operation == "mult" and h > 1 else h
            count = n * h // together
            halves = [vectors[:, at : at + count]]
            at += count
            if block.second is not None:
                halves.append(vectors[:, at : at + count])
                at += count
            for k, column in enumerate(block.columns):
                mine = [half[:, k * h // together : (k + 1) * h // together] for half in halves]
                ours[column] = combined(mine, operation).sum(axis=1)
                looked_up = []
                for start in (block.first, block.second)[: len(halves)]:
                    places = range(start + k * h, start + (k + 1) * h)
                    looked_up.append(np.stack([row_of(tables[names[table[p]]], own[:, p]) for p in places], axis=1))
                direct[column] = combined(looked_up, operation).sum(axis=1)
        assert at == vectors.shape[1]
    return ours, direct


def combined(halves, operation):
    if len(halves) == 1:
        return halves[0]
    if operation == "concat":
        return np.concatenate(halves, axis=-1)
    return halves[0] * halves[1] if operation == "mult" else halves[0] + halves[1]


def row_of(table, rows):
    return np.where((rows >= 0)[:, None], table[np.maximum(rows, 0)], 0)


@st.composite
def cases(draw):
    """A schema, widths, a split, a number of processes, and a placement of every stored table."""
    n_tables = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 40)) for _ in range(n_tables)]
    widths = {f"t{i}": draw(st.sampled_from([2, 4, 6])) for i in range(n_tables)}
    columns = []
    for i in range(draw(st.integers(n_tables, n_tables + 3))):
        table = i if i < n_tables else draw(st.integers(0, n_tables - 1))
        combiner = draw(st.sampled_from(["sum", "mean"]))
        columns.append(
            Categorical(f"c{i}", sizes[table], hotness=draw(st.integers(1, 3)), table=f"t{table}", combiner=combiner)
        )
    schema = Schema(categorical=draw(st.permutations(columns)))
    split = draw(st.sampled_from([None, *OPERATIONS]))
    split = split and QuotientRemainder(draw(st.integers(2, 5)), split, threshold=draw(st.sampled_from([0, 15])))
    stacks = stacks_of(schema, widths, split)
    world = draw(st.integers(1, 5))
    placements = {}
    for name, (rows, width) in shapes_of(stacks).items():
        kind = draw(st.sampled_from(KINDS))
        parts = {
            "replicate": [0],
            "table_wise": [1],
            "row_wise": range(1, min(rows, 6) + 1),
            "column_wise": [n for n in range(1, width + 1) if width % n == 0],
        }[kind]
        count = draw(st.sampled_from(parts))
        ranks = draw(st.lists(st.integers(0, world - 1), min_size=count, max_size=count))
        placements[name] = Placement(kind, tuple(ranks))
    return schema, stacks, split, ShardingPlan(world, shapes_of(stacks), placements)


@given(cases(), st.integers(0, 2**31))
def test_what_the_processes_answer_makes_the_pooled_vectors_of_whole_tables(case, seed):
    schema, stacks, split, plan = case
    rng = np.random.default_rng(seed)
    tables = {name: rng.integers(-9, 10, shape).astype(float) for name, shape in plan.shapes.items()}
    sparse = np.concatenate([rng.integers(-1, c.vocabulary_size, (7, c.hotness)) for c in schema.categorical], axis=1)
    found = layout(stacks, plan, split and split.operation)
    ours, direct = pooled(found, tables, stacks, table_rows(stacks, sparse), split)
    assert sorted(ours) == list(range(len(schema.categorical)))
    for column in ours:
        np.testing.assert_array_equal(ours[column], direct[column])


@given(cases())
def test_every_number_of_every_table_lies_in_one_place_and_no_two_in_the_same(case):
    _, stacks, split, plan = case
    found = layout(stacks, plan, split and split.operation)
    held = {name: np.zeros(shape, int) for name, shape in plan.shapes.items()}
    for group in found.groups:
        taken = np.zeros((len(group.take), group.rows), int)
        for shard, first in group.placed:
            held[shard.table][shard.start : shard.stop, shard.first : shard.last] += 1
            taken[shard.rank or 0, first : first + shard.rows] += 1
            assert shard.width == group.width
        assert taken.max() == 1
        assert group.rows == taken.sum(axis=1).max()
    assert all((count == 1).all() for count in held.values())


@given(cases())
def test_groups_that_add_nothing_up_say_so(case):
    _, stacks, split, plan = case
    for group in layout(stacks, plan, split and split.operation).groups:
        real = group.high > group.low
        sums = any(len(set(s[r])) < r.sum() for s, r in zip(group.segment, real, strict=True))
        assert group.pools or not sums
        if not group.pools:
            assert group.outputs == group.positions


def test_traffic_is_what_the_arrays_of_the_exchange_weigh():
    schema = Schema(categorical=[Categorical("a", 50, hotness=3), Categorical("b", 9), Categorical("c", 7)])
    stacks = stacks_of(schema, {"a": 4, "b": 4, "c": 4})
    kinds = {
        "a": Placement("row_wise", (0, 1)),
        "b": Placement("table_wise", (1,)),
        "c": Placement("replicate"),
    }
    moved = traffic(2, layout(stacks, ShardingPlan(2, shapes_of(stacks), kinds), None).groups, 10, True, 100)
    # Process 1 is asked for 3 + 1 ids of an example and answers with 2 vectors of 4; all others are padded to that.
    assert moved.ids == 5 * 4 * 4 * 2 and moved.vectors == 5 * 2 * 4 * 4 * 2
    assert moved.replicated == 5 * (1 + 4) * 4
    assert moved.dense == 2 * 50 * 4 and moved.metrics == 5 * 2 * 4
    assert moved.total == moved.ids + moved.vectors + moved.replicated + moved.dense + moved.metrics


def test_traffic_does_not_depend_on_the_rows_of_tables_and_one_process_sends_nothing():
    def bytes_of(rows, world):
        schema = Schema(categorical=[Categorical("a", rows), Categorical("b", 30)])
        stacks = stacks_of(schema, {"a": 8, "b": 8})
        shapes = shapes_of(stacks)
        return traffic(world, layout(stacks, place(world, shapes, dict.fromkeys(shapes, "row_wise")), None).groups, 64, False, 10)

    assert bytes_of(100, 4) == bytes_of(10_000, 4)
    assert bytes_of(100, 1).total == 0


def test_a_plan_for_other_tables_is_refused():
    stacks = stacks_of(Schema(categorical=[Categorical("a", 10)]), {"a": 4})
    for shapes in ({"a": (11, 4)}, {"b": (10, 4)}):
        with pytest.raises(ValueError, match="the plan is for other tables"):
            layout(stacks, place(2, shapes, dict.fromkeys(shapes, "table_wise")), None)


def test_one_hot_tables_of_uneven_shares_are_not_pooled():
    stacks = stacks_of(Schema(categorical=[Categorical(name, 9) for name in "abc"]), dict.fromkeys("abc", 4))
    shapes = shapes_of(stacks)
    (group,) = layout(stacks, place(2, shapes, dict.fromkeys(shapes, "table_wise")), None).groups
    assert group.positions == group.outputs == 2 and not group.pools

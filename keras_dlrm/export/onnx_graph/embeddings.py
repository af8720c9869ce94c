"""`EmbeddingCollection` in ONNX: one Gather for all columns of equal width."""

from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.export.onnx_graph.graph import Graph, element_type
from keras_dlrm.export.onnx_graph.ops import scalar
from keras_dlrm.export.tables.stored_tables import StoredStack, StoredTables
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.hashing import LARGEST, MIX
from keras_dlrm.sharding.stacking import Block


def pooled(graph: Graph, collection: Any, tables: StoredTables, sparse: str, weights: str | None) -> str:
    """Output of an `EmbeddingCollection`, (B, F, D) or (B, Σ D), in float32.

    `sparse` and `weights` name the ids, int64 (B, W), and their factors; stored tables are tensors such as `tables_16.codes`.
    """
    if weights is not None:
        # An error where there are not as many rows of them: one row would go for all.
        weights = graph.op("Reshape", weights, graph.op("Shape", sparse))
    blocks: list[tuple[Block, str]] = []
    for stored in tables.stacks:
        stack, ids, factors = stored.stack, sparse, weights
        if not stack.blocks:  # remainders alone, looked up with their quotients
            continue
        if stack.take is not None:
            take = stack.take.astype(np.int64)
            ids = graph.op("Gather", sparse, take, axis=1)
            factors = None if weights is None else graph.op("Gather", weights, take, axis=1)
        blocks += _pool(graph, collection, stored, ids, factors)
    blocks = [(block, _project(graph, collection, block, vectors)) for block, vectors in blocks]
    return _arrange(graph, collection, blocks)


def _pool(graph: Graph, collection: Any, stored: StoredStack, ids: str, weights: str | None) -> list[tuple[Block, str]]:
    stack = stored.stack
    needs_factors = weights is not None or any(b.combiner != "sum" and b.hotness > 1 for b in stack.blocks)
    places, real = _places(graph, collection, stored, ids, needs_factors)
    vectors = _gather(graph, stored, places)
    factors = None
    if needs_factors:
        # Not a product: a weight of NaN or infinity on padding must not reach the sum.
        factors = graph.op("Where", real, weights or scalar(1.0), scalar(0.0))
        if weights is not None:
            graph.must_be_finite.append((factors, stack.positions))
    # Cuts between blocks; remainders follow the last one.
    halves = [b for b in stack.blocks if b.second is not None]
    cuts = [b.hotness * len(b.columns) for b in (*stack.blocks, *halves)]
    parts = _split(graph, vectors, cuts)
    seconds = {id(b): part for b, part in zip(halves, parts[len(stack.blocks) :], strict=True)}
    factor_parts = None if factors is None else _split(graph, factors, cuts)
    pooled_blocks = []
    for i, block in enumerate(stack.blocks):
        part, n, h = parts[i], len(block.columns), block.hotness
        if id(block) in seconds:
            kind = {"concat": "Concat", "mult": "Mul", "add": "Add"}[collection.quotient_remainder.operation]
            axis: dict[str, Any] = {"axis": -1} if kind == "Concat" else {}
            part = graph.op(kind, part, seconds[id(block)], **axis)
        factor = None if factor_parts is None else factor_parts[i]
        if weights is not None:
            part = graph.op("Mul", part, graph.op("Unsqueeze", factor, _ints(-1)))
        if h > 1 and n > 1:
            part = graph.op("ReduceSum", graph.op("Reshape", part, _ints(0, n, h, block.width)), _ints(2), keepdims=0)
        elif h > 1:
            part = graph.op("ReduceSum", part, _ints(1), keepdims=1)
        if block.combiner != "sum" and (h > 1 or weights is not None):
            part = _normalize(graph, block, part, factor, weights is not None)
        pooled_blocks.append((block, part))
    return pooled_blocks


def _places(graph: Graph, collection: Any, stored: StoredStack, ids: str, needs_real: bool) -> tuple[str, str | None]:
    """Places (B, P) that ids ask for, see `StoredStack`; and, if needed, which of them are rows."""
    stack = stored.stack
    sizes = stack.per_position["size"].astype(np.int64)
    contributes = stack.per_position["oov"] >= 0
    computed = stack.per_position["hashed"] | stack.per_position["open"]
    if computed.any() or any(block.second is not None for block in stack.blocks):
        return _computed_places(graph, collection, stored, ids, needs_real)
    clipped = graph.op("Min", graph.op("Max", ids, np.array([PADDING - 1])), sizes)
    real = None
    if needs_real and contributes.all():
        real = graph.op("Not", graph.op("Equal", clipped, np.array([PADDING])))
    elif needs_real:
        inside = graph.op("And", graph.op("GreaterOrEqual", clipped, _ints(0)), graph.op("Less", clipped, sizes))
        unseen = graph.op("And", graph.op("Not", graph.op("Equal", clipped, _ints(PADDING))), contributes)
        real = graph.op("Or", inside, unseen)
    return graph.op("Add", clipped, stored.first_places), real


def _computed_places(
    graph: Graph, collection: Any, stored: StoredStack, ids: str, needs_real: bool
) -> tuple[str, str | None]:
    """Places where ids are hashed, have rows in a map, or split into a quotient and a remainder; otherwise like `_places`."""
    stack = stored.stack
    sizes, oov, hashed, divisor, modulus = (
        stack.per_position[name] for name in ("size", "oov", "hashed", "divisor", "modulus")
    )
    not_negative = graph.op("GreaterOrEqual", ids, _ints(0))
    known = graph.op("And", not_negative, graph.op("Less", ids, sizes.astype(np.int64)))
    local = ids
    if hashed.any():
        known = graph.op("And", not_negative, graph.op("Or", known, hashed))
        buckets = _bucket(graph, graph.op("Max", ids, _ints(0)), sizes.astype(np.int64))
        local = buckets if hashed.all() else graph.op("Where", hashed, buckets, ids)
    unknown = oov.astype(np.int64)
    if (oov != PADDING).any():
        unknown = graph.op("Where", graph.op("Equal", ids, _ints(PADDING)), _ints(PADDING), unknown)  # type: ignore[assignment]
    local = graph.op("Where", known, local, unknown)
    if stack.per_position["open"].any():
        local = _with_slots(graph, collection.open, stack, ids, local)
    real = graph.op("GreaterOrEqual", local, _ints(0))
    if any(block.second is not None for block in stack.blocks):
        quotient = graph.op("Div", local, divisor.astype(np.int64))
        local = graph.op("Where", real, graph.op("Mod", quotient, modulus.astype(np.int64)), _ints(PADDING))
    return graph.op("Add", local, stored.first_places), real if needs_real else None


def _with_slots(graph: Graph, maps: Any, stack: Any, ids: str, local: str) -> str:
    """Local rows, where ids of open vocabularies are looked up in their maps; as `OpenTables.rows_in_graph`."""
    for places, each in maps.of_stack(stack):
        order = np.arange(stack.positions)
        order[places] = stack.positions + np.arange(len(places))
        own = graph.op("Max", graph.op("Gather", ids, places, axis=1), _ints(0))
        buckets = _bucket(graph, own, np.array(each.slots.buckets))
        known = graph.op("Gather", each.slots.identities, buckets, axis=0)
        same = graph.op("Cast", graph.op("Equal", known, graph.op("Unsqueeze", own, _ints(-1))), to=element_type("int32"))
        way = graph.op("ArgMax", same, axis=-1, keepdims=0)
        known_id = graph.op("Cast", graph.op("ReduceMax", same, _ints(-1), keepdims=0), to=element_type("bool"))
        slot = graph.op("Add", graph.op("Add", graph.op("Mul", buckets, _ints(each.slots.ways)), way), _ints(1))
        of_open = graph.op("Where", known_id, slot, _ints(0))
        every = graph.op("Gather", graph.op("Concat", local, of_open, axis=1), order, axis=1)
        local = graph.op("Where", graph.op("GreaterOrEqual", ids, _ints(0)), every, local)
    return local


def _bucket(graph: Graph, ids: str, sizes: np.ndarray) -> str:
    """Buckets of ids as `embeddings.hashing.bucket` computes them, in int64: products modulo 2³² have the same lower bits."""
    high = graph.op("BitwiseAnd", graph.op("Div", ids, _ints(LARGEST + 1)), _ints(LARGEST))
    low = graph.op("BitwiseAnd", ids, _ints(LARGEST))
    mixed = graph.op("BitwiseAnd", graph.op("BitwiseXor", low, _mix(graph, high)), _ints(LARGEST))
    folded = graph.op("Where", graph.op("Greater", ids, _ints(LARGEST)), mixed, low)
    return graph.op("Mod", graph.op("BitwiseAnd", _mix(graph, folded), _ints(LARGEST)), sizes)


def _mix(graph: Graph, x: str) -> str:
    for shift, factor in MIX:
        x = graph.op("BitwiseXor", x, graph.op("Div", x, _ints(1 << shift)))
        if factor != 1:
            # As a signed number: a product of 32 and 31 bits does not overflow.
            signed = factor - (1 << 32) if factor > LARGEST else factor
            x = graph.op("BitwiseAnd", graph.op("Mul", x, _ints(signed)), _ints((1 << 32) - 1))
    return x


def _gather(graph: Graph, stored: StoredStack, places: str) -> str:
    """Stored rows of places, dequantized: float32 (B, P, D). Nothing but the rows asked for is ever computed with."""
    if stored.pruned is not None:
        places = graph.op("Gather", f"{stored.name}.map", places, axis=0)
    gathered = {name: graph.op("Gather", f"{stored.name}.{name}", places, axis=0) for name in stored.layout}
    if stored.kind == "float32":
        return gathered["codes"]
    codes = gathered["codes"]
    if stored.kind == "int4":
        low = graph.op("BitwiseAnd", codes, np.array([15], np.uint8))
        high = graph.op("BitShift", codes, np.array([4], np.uint8), direction="RIGHT")
        codes = graph.op("Concat", low, high, axis=-1)
        if stored.stack.width % 2:
            codes = graph.op("Slice", codes, _ints(0), _ints(stored.stack.width), _ints(2))
    rows = graph.op("Cast", codes, to=element_type("float32"))
    for name, kind in (("scale", "Mul"), ("offset", "Add")):
        if name in gathered:
            rows = graph.op(kind, rows, graph.op("Cast", gathered[name], to=element_type("float32")))
    return rows


def _normalize(graph: Graph, block: Block, part: str, factor: str | None, weighted: bool) -> str:
    """Sums (B, n, D) divided by the sum of their factors, or by the root of its squares; 0 where that is 0."""
    factor = graph.op("Reshape", factor, _ints(0, len(block.columns), block.hotness))
    if weighted and block.combiner == "sqrtn":
        factor = graph.op("Mul", factor, factor)
    norm = graph.op("ReduceSum", factor, _ints(2), keepdims=1)
    if not weighted:
        norm = graph.op("Max", norm, scalar(1.0))  # a number of ids; where it is 0 the sum is, too
    if block.combiner == "sqrtn":
        norm = graph.op("Sqrt", norm)
    if not weighted:
        return graph.op("Div", part, norm)
    zero = graph.op("Equal", norm, scalar(0.0))
    return graph.op("Mul", part, graph.op("Where", zero, scalar(0.0), graph.op("Div", scalar(1.0), norm)))


def _project(graph: Graph, collection: Any, block: Block, vectors: str) -> str:
    names = collection.projected.get(block.width)
    if names is None:
        return vectors
    which = [names.index(collection.schema.categorical[i].table_name) for i in block.columns]
    kernel = ops.convert_to_numpy(collection.projections[str(block.width)]).astype(np.float32)[which]
    if len(which) == 1:
        return graph.op("MatMul", vectors, kernel[0])
    by_column = graph.op("Transpose", vectors, perm=[1, 0, 2])
    return graph.op("Transpose", graph.op("MatMul", by_column, kernel), perm=[1, 0, 2])


def _arrange(graph: Graph, collection: Any, blocks: list[tuple[Block, str]]) -> str:
    """Vectors of blocks in the order of the columns, side by side or one below the other."""
    order = [i for block, _ in blocks for i in block.columns]
    widths = {block.width for block, _ in blocks}
    if not collection.concatenate or len(widths) == 1:
        vectors = _side_by_side(graph, [vectors for _, vectors in blocks])
        if order != sorted(order):
            vectors = graph.op("Gather", vectors, np.argsort(order), axis=1)
        return graph.op("Reshape", vectors, _ints(0, len(order) * widths.pop())) if collection.concatenate else vectors
    flat = [graph.op("Reshape", vectors, _ints(0, len(block.columns) * block.width)) for block, vectors in blocks]
    if order == sorted(order):
        return _side_by_side(graph, flat)
    columns: dict[int, str] = {}
    for (block, _), flat_block in zip(blocks, flat, strict=True):
        parts = _split(graph, flat_block, [block.width] * len(block.columns))
        columns.update(zip(block.columns, parts, strict=True))
    return _side_by_side(graph, [columns[i] for i in sorted(columns)])


def _split(graph: Graph, name: str, sizes: list[int]) -> list[str]:
    """Parts along axis 1."""
    if len(sizes) == 1:
        return [name]
    return graph.ops("Split", name, _ints(*sizes), outputs=[graph.new_name("Split") for _ in sizes], axis=1)


def _side_by_side(graph: Graph, names: list[str]) -> str:
    return graph.op("Concat", *names, axis=1) if len(names) > 1 else names[0]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)

"""`grow`: a trained model for a schema with larger vocabularies."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import batches_of, rate_of, variables_of
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.lookup import replace_rows, rows_between
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema

CHUNK = 2**18


def grow(model: ClickModel, schema: Schema) -> ClickModel:
    """A model of a schema whose vocabularies were grown, with the weights of one that was trained before.

    Rows that the old tables have are copied, so that known ids predict what they did; new rows are drawn as in a fresh
    model of the grown schema. Where the old model is compiled, so is the new one, with a copy of its optimizers: slots of
    old rows and of dense parameters, step counts and rates stay, slots of new rows begin at their initial values.

    Args:
        model: A model of `kd.models`; it is unchanged.
        schema: Its schema with larger `vocabulary_size`s, as `Preprocessor.grow` makes it; the new model has its vocabularies.

    Returns:
        The new model. While it is made, memory holds both.

    Raises:
        TypeError: no model of `kd.models`.
        ValueError: the schemas differ in more than larger vocabularies; a table would be stored in another way; the
            optimizer is in the middle of accumulating gradients.

    Example:

    >>> model = kd.models.DLRM(kd.Schema(["I1"], [kd.Categorical("C1", 3)]), 2, bottom_mlp=[2], top_mlp=[1])
    >>> larger = kd.models.grow(model, kd.Schema(["I1"], [kd.Categorical("C1", 5)]))
    >>> larger.embedding_tables()["C1"].shape
    (5, 2)
    >>> bool((larger.embedding_tables()["C1"][:3] == model.embedding_tables()["C1"]).all())
    True
    """
    if not isinstance(model, ClickModel):
        raise TypeError(
            f"grow: expected a model of kd.models, not {type(model).__name__}; build one of your own with the new schema "
            "and give its EmbeddingCollection the old rows by set_embedding_tables."
        )
    _check(model.schema, schema)
    new = type(model).from_config({**model.get_config(), "schema": schema.to_dict()})
    moves = _moves(model.embeddings, new.embeddings)
    pairs = [(model.weights, new.weights), (model.seed_states(), new.seed_states())]
    maps = None if model.embeddings is None else model.embeddings.open
    if maps is not None:
        new.embeddings.open.restore(maps.state())  # type: ignore[union-attr]
    if model.compiled:
        _check_accumulation(model.optimizer)
        new.compile_from_config(model.get_compile_config() or {})
        before, after = model.optimizer, new.optimizer
        pairs += [(before.dense.variables, after.dense.variables), (_slots(before.rows), _slots(after.rows))]
        for table, slots in zip(variables_of(before.rows), before.rows.held_slots, strict=True):
            moves |= {id(slot): moves[id(table)] for slot in slots.values()}
    for befores, afters in pairs:
        for before, after in zip(befores, afters, strict=True):
            _copy(before, after, moves.get(id(before)))
    return new


def _check(old: Schema, new: Schema) -> None:
    new.require_fitted()
    sizes_of = ("vocabulary_size", "identity")
    without = [
        {**data, "categorical": [{name: c[name] for name in c if name not in sizes_of} for c in data["categorical"]]}
        for data in (old.to_dict(), new.to_dict())
    ]
    if without[0] != without[1]:
        key = next(k for k in without[0] | without[1] if without[0].get(k) != without[1].get(k))
        raise ValueError(
            f"grow: the schemas differ in {key!r}: {without[0].get(key)} became {without[1].get(key)}; only "
            "vocabulary_size may change. Take the schema of Preprocessor.grow, or build a new model."
        )
    for before, after in zip(old.categorical, new.categorical, strict=True):
        sizes = int(before.vocabulary_size or 0), int(after.vocabulary_size or 0)
        fixed = before.hashed or bool(before.crossed) or before.codes is not None
        if sizes[1] < sizes[0] or (fixed and sizes[1] != sizes[0]):
            why = "hashed ids would fall into other rows" if fixed else "rows would be lost"
            raise ValueError(
                f"grow: column {before.name!r} has vocabulary_size={sizes[0]} and would have {sizes[1]}, where {why}; "
                f"give {'the same size' if fixed else 'at least as many'}."
            )


def _moves(old: EmbeddingCollection | None, new: EmbeddingCollection | None) -> dict[int, list[tuple[int, int, int]]]:
    """By `id` of the old collection's variables, which rows go where: `(from, to, count)` for each table."""
    if old is None or new is None:
        return {}
    old.require_whole("grow")
    for name in old.table_shapes:
        if name not in new.table_shapes:
            raise ValueError(
                f"grow: table {name!r} would be larger than the threshold of quotient_remainder, which splits it; build a new "
                "model, or one with a larger threshold."
            )
    return {
        id(variable): [(before.starts[t.name], after.starts[t.name], t.rows) for t in before.tables]
        for variable, before, after in zip(old.tables, old.stacks, new.stacks, strict=True)
    }


def _check_accumulation(optimizer: Any) -> None:
    steps = optimizer.dense.gradient_accumulation_steps
    done = int(ops.convert_to_numpy(batches_of(optimizer.dense).value)) % steps if steps else 0
    if done:
        raise ValueError(
            f"grow: the optimizer has accumulated gradients of {done} of {steps} batches, which would be lost; train on a "
            "multiple of gradient_accumulation_steps."
        )


def _slots(rows: Any) -> list[Any]:
    """Variables of a row rule but for gradients that it accumulates, which have rows of the whole stack."""
    rate = [rate_of(rows)] if isinstance(rate_of(rows), keras.Variable) else []
    return [batches_of(rows), *rate, *(slot for slots in rows.held_slots for slot in slots.values())]


def _copy(before: Any, after: Any, moves: list[tuple[int, int, int]] | None) -> None:
    if moves is None:
        # A copy: JAX may write a step's results over the arrays that it was given.
        after.assign(np.array(ops.convert_to_numpy(before.value)))
        return
    for source, target, count in moves:
        for done in range(0, count, CHUNK):
            stop = min(done + CHUNK, count)
            replace_rows(after, target + done, rows_between(before, source + done, source + stop))

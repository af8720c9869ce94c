"""Configuration of SparseCore through keras-rs: tables, features and optimizer."""

import importlib
import math
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_dlrm.embeddings.rules import SGD, Adagrad, Adam, RowRule
from keras_dlrm.embeddings.rules.follow import fixed_rate, get
from keras_dlrm.initializers import part_seed
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.stacking import Stack, Table

# An ε that changes no step by more than this share is left out: SparseCore's Adagrad has none.
_NO_EPSILON = 1e-5


def keras_optimizer(rule: Any) -> keras.optimizers.Optimizer:
    """The Keras optimizer that keras-rs turns into SparseCore's own, with the mathematics of a row rule.

    SparseCore sums the gradients of repeated ids before its optimizer sees them, and leaves alone rows that are not
    looked up, as row rules do. `ValueError` where it does not have the rule, or an option of it.
    """
    rule = get(rule)
    who = f"TPUEmbedding: embedding_optimizer {type(rule).__name__}"
    if type(rule) not in (SGD, Adagrad, Adam):
        fix = "SparseCore has kd.optimizers.SGD, Adagrad and Adam, of which Adagrad is the nearest to row-wise Adagrad."
        raise ValueError(f"{who} is not on SparseCore; {fix}")
    rate = fixed_rate(rule)
    if rate is None:
        raise ValueError(f"{who}: learning_rate is a schedule, which keras-rs does not advance on every backend; give a number.")
    if rule.l2:
        raise ValueError(f"{who}: l2={rule.l2} is not on SparseCore; leave it out.")
    if isinstance(rule, SGD):
        return keras.optimizers.SGD(rate)
    if isinstance(rule, Adam):
        if not rule.epsilon:
            raise ValueError(f"{who}: epsilon=0 gives 0/0 on SparseCore where a gradient is 0; give a small number, as 1e-8.")
        return keras.optimizers.Adam(rate, rule.beta_1, rule.beta_2, rule.epsilon)
    start = rule.initial_accumulator_value
    if start <= 0:
        raise ValueError(
            f"{who}: initial_accumulator_value={start} gives 0/0 on SparseCore, whose Adagrad has no epsilon, where a gradient "
            "is 0; give a positive one, as 0.1."
        )
    if (rule.epsilon / 2 / start if rule.epsilon_in_root else rule.epsilon / math.sqrt(start)) > _NO_EPSILON:
        raise ValueError(
            f"{who}: epsilon={rule.epsilon} would change steps alongside initial_accumulator_value={start}, and SparseCore's "
            "Adagrad has none; give a smaller one, as 1e-10."
        )
    return keras.optimizers.Adagrad(rate, start)


def feature_configs(
    schema: Schema, stacks: Sequence[Stack], rule: RowRule, seed: int, batch_size: int | None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """A `keras_rs.layers.FeatureConfig` for each column; columns that share a table share its `TableConfig`.

    Each table has a last row of its own for padding, which SparseCore would otherwise look up in a real one, with weight
    0. The combiner is always "sum": keras-rs has it by table, a schema by column, so `mean` and `sqrtn` are divided out
    behind the lookup. Initial rows have the distribution of `EmbeddingCollection`'s, drawn by Keras on the device. The batch size
    is that of all devices together, `None` off the TPU; options are those of `keras_rs.layers.TableConfig`.
    """
    layers = keras_rs_layers()
    configs: dict[str, Any] = {}
    for stack in stacks:
        tables = {
            table.name: layers.TableConfig(
                name=config_name(table), vocabulary_size=table.rows + 1, embedding_dim=table.width, combiner="sum",
                initializer=keras.initializers.RandomUniform(-table.half_width, table.half_width, part_seed(seed, *table.number)),
                optimizer=keras_optimizer(rule), **options,
            )
            for table in stack.tables
        }  # fmt: skip
        for block in stack.blocks:
            for column in (schema.categorical[i] for i in block.columns):
                shapes = {"input_shape": (batch_size, block.hotness), "output_shape": (batch_size, block.width)}
                configs[column.name] = layers.FeatureConfig(name=column.name, table=tables[column.table_name], **shapes)
    return configs


def config_name(table: Table) -> str:
    """A table's name in the configuration, where "/" and the like mean something else: different for each table."""
    safe = re.sub(r"[^A-Za-z0-9_]", "_", table.name)
    return safe if safe == table.name else f"{safe}-{table.number[0]}"


def keras_rs_layers() -> Any:
    """The module `keras_rs.layers`; `ImportError` where keras-rs is not installed."""
    try:
        return importlib.import_module("keras_rs").layers
    except ModuleNotFoundError as error:
        if error.name != "keras_rs":
            raise
        raise ImportError("TPUEmbedding needs keras-rs on a TPU; install keras-dlrm[tpu], or use EmbeddingCollection.") from error

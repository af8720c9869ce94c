"""Compressed tables: quotient and remainder, mixed dimensions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import choice, integer, number

OPERATIONS = ("mult", "add", "concat")


@dataclasses.dataclass(frozen=True)
class QuotientRemainder:
    """The quotient–remainder trick: a table of n rows as one of ⌈n/c⌉ rows and one of c rows.

    The vector of id i is made of row ⌊i/c⌋ of the first and row i mod c of the second, so that no two ids share both.

    Args:
        collisions: c, how many ids share a row of the first table.
        operation: What makes one vector of the two rows: `"mult"` or `"add"`, element by element, or `"concat"`: each
            is half the width.
        threshold: Tables of at most so many rows stay whole.

    Source: Shi et al. 2020, "Compositional Embeddings Using Complementary Partitions", section 2; the reference's
    `--qr-flag`. Unlike the reference, initial rows are drawn around 0, so that the vectors they make have the variance
    of an ordinary table's; ids are divided as integers; and `"concat"` keeps the width of the whole.

    Example:

    >>> QuotientRemainder(collisions=4).rows(1000)
    (250, 4)
    """

    collisions: int = 4
    operation: str = "mult"
    threshold: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "collisions", integer("QuotientRemainder", "collisions", self.collisions, 2))
        object.__setattr__(self, "threshold", integer("QuotientRemainder", "threshold", self.threshold, 0))
        choice("QuotientRemainder", "operation", self.operation, OPERATIONS)

    @classmethod
    def of(cls, value: Any) -> QuotientRemainder:
        """Make one from an instance, or from a mapping of its arguments."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"QuotientRemainder: expected its arguments as a mapping, not {value!r}.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in value:
            if name not in known:
                raise ValueError(f"QuotientRemainder: unknown argument {name!r}; known are {known}.")
        return cls(**value)

    def splits(self, size: int) -> bool:
        """Whether a table of `size` rows is split: it is above the threshold, and has fewer rows in two tables."""
        return size > self.threshold and sum(self.rows(size)) < size

    def rows(self, size: int) -> tuple[int, int]:
        """Rows of the two tables that stand for one of `size` rows."""
        return -(-size // self.collisions), self.collisions

    def half_width(self, whole: float) -> float:
        """Half-width of the two tables' initial distribution, for vectors like those drawn from U(-whole, whole)."""
        # U(-s, s) has the variance s²/3; a product of two has the product of theirs, a sum the sum.
        return {"mult": math.sqrt(math.sqrt(3.0) * whole), "add": whole / math.sqrt(2.0), "concat": whole}[self.operation]


def mixed_dimensions(schema: Schema, embedding_dim: int, temperature: float = 0.3, power_of_two: bool = True) -> dict[str, int]:
    """Widths by table that fall with a table's size: its ids are looked up less often each, and need fewer parameters.

    The smallest table of n₀ rows gets D, one of n rows D · (n₀/n)^α, at least 1. Give the result to
    `EmbeddingCollection(schema, widths, output_dim=D)`, or as `embedding_dim` of a model.

    Args:
        schema: A fitted schema.
        embedding_dim: D.
        temperature: α, >= 0: 0 gives every table the width D.
        power_of_two: Whether widths are rounded to powers of two (the smallest table's included).

    Returns:
        Table name → width.

    Source: Ginart et al. 2019, "Mixed Dimension Embeddings", algorithm 2; the reference's `md_solver`.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("a", 10), kd.Categorical("b", 100_000)])
    >>> mixed_dimensions(schema, 16)
    {'a': 16, 'b': 1}
    """
    widest = integer("mixed_dimensions", "embedding_dim", embedding_dim)
    alpha = number("mixed_dimensions", "temperature", temperature)
    sizes = schema.table_sizes
    smallest = min(sizes.values(), default=1)
    widths = {name: max(1, round(widest * (smallest / size) ** alpha)) for name, size in sizes.items()}
    if power_of_two:
        widths = {name: 2 ** round(math.log2(width)) for name, width in widths.items()}
    return widths

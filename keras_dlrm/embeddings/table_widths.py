"""Widths of the tables, each by its name."""

from __future__ import annotations

from collections.abc import Mapping

from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


def table_widths(schema: Schema, embedding_dim: int | Mapping[str, int]) -> dict[str, int]:
    """Table name → width, from one number or a mapping that names every table.

    Args:
        schema: A fitted schema.
        embedding_dim: The number or mapping.

    Raises:
        ValueError: other tables than the schema's; no width.
    """
    names = list(schema.table_sizes)
    if isinstance(embedding_dim, Mapping):
        for name in [*names, *embedding_dim]:
            if name not in embedding_dim or name not in names:
                raise ValueError(
                    f"EmbeddingCollection: embedding_dim names the tables {sorted(embedding_dim)}; the schema has "
                    f"{sorted(names)}. Give each table one width."
                )
        widths = {name: embedding_dim[name] for name in names}
    else:
        widths = dict.fromkeys(names, embedding_dim)
    for name, width in widths.items():
        widths[name] = integer(f"EmbeddingCollection: table {name!r}", "embedding_dim", width)
    return widths

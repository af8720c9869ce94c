"""Columns that are made of a content vector: `ContentVector`, its elements as dense columns, and `SemanticIds`, codes of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.schema.columns import PADDING, Categorical, Dense, from_entry, listed
from keras_dlrm.schema.hashing import LARGEST, mix
from keras_dlrm.support.arguments import boolean, integer

ROWS = 2**18


def ContentVector(name: str, width: int, transform: str = "standardize") -> tuple[Dense, ...]:
    """Dense columns `name[0]`, `name[1]`, … for the elements of a content vector, such as an embedding of an item's text.

    Data and requests have one column `name` of lists of numbers; in text files they are separated by `|`. A row without a
    vector has `Dense.missing` in all elements. A schema file has one entry, `{name: title_vector, width: 32}`.

    Args:
        name: Column of the vectors in the raw rows.
        width: Numbers of a vector.
        transform: What a preprocessor does to each element, as of `Dense`.

    Returns:
        `width` columns, for `Schema(dense=[*ContentVector(…)])`.

    Raises:
        ValueError, TypeError: the width is below 1, or a column cannot be made so.

    Example:

    >>> schema = kd.Schema(dense=["price", *ContentVector("title_vector", 2)])
    >>> schema.dense_names
    ('price', 'title_vector[0]', 'title_vector[1]')
    """
    width = integer(f"ContentVector {name!r}", "width", width)
    return tuple(Dense(f"{name}[{i}]", transform, of=name, element=i, width=width) for i in range(width))


def SemanticIds(
    name: str, of: str, width: int, levels: int = 3, codes: int = 256, prefix: bool = True, rows: int = ROWS
) -> Categorical:
    """A sparse column of the codes of a content vector: items of similar content share ids, and new items have them at once.

    A preprocessor fits a codebook for each level by k-means: the first one on the different vectors of the training part,
    the next ones on what the levels before leave of them. A vector's code at a level is the number of the nearest center.
    Data and requests have the vector, not the codes: the preprocessor and the graph of an exported model compute them,
    so that an item that training never saw has the rows of items like it. A row without a vector has no ids.

    Args:
        name: Column name.
        of: Column of the vectors in the raw rows: lists of numbers; in text files they are separated by `|`.
        width: Numbers of a vector.
        levels: Codes of a vector L, the hotness of the column.
        codes: Centers K of each level.
        prefix: Whether an id stands for a prefix of the code (c1; c1, c2; c1, c2, c3), or for the code of a level alone.
        rows: Most rows of the table. Prefixes of length l have K^l rows of their own where they fit; others are hashed
            into what is left.

    Returns:
        A `Categorical` of hotness L. Its rows are pooled by their sum.

    Raises:
        ValueError, TypeError: a number is out of range.

    Example:

    >>> column = SemanticIds("film_codes", of="title_vector", width=32, levels=2, codes=16)
    >>> column.hotness, column.vocabulary_size
    (2, 272)

    Source: Zheng et al., Enhancing Embedding Representation Stability in Recommendation Systems with Semantic ID, RecSys 2025
    (prefix n-grams); residual k-means in place of RQ-VAE as in Deng et al., OneRec, 2025.
    """
    who = f"SemanticIds {name!r}"
    levels, codes, rows = (integer(who, n, v) for n, v in (("levels", levels), ("codes", codes), ("rows", rows)))
    prefix = boolean(who, "prefix", prefix)
    needed = sum(codes**level for level in range(1, levels + 1)) if prefix else levels * codes
    if rows < min(needed, levels * codes):
        raise ValueError(f"{who}: rows={rows} is too few for {levels} levels of {codes} codes; give at least {levels * codes}.")
    return Categorical(
        name, min(needed, rows) if prefix else needed, levels, of=of, part="prefixes" if prefix else "codes",
        width=width, codes=codes,
    )  # fmt: skip


def vectors(schema: Any) -> dict[str, int]:
    """Width of each content vector that columns of a schema are made of, by the name of its raw column.

    Example:

    >>> vectors(kd.Schema(ContentVector("title_vector", 2)))
    {'title_vector': 2}
    """
    return {c.of: c.width for c in (*schema.dense, *schema.categorical) if c.width is not None}


def semantic(columns: Iterable[Categorical]) -> list[Categorical]:
    """Columns of the codes of content vectors."""
    return [column for column in columns if column.codes is not None]


def level_rows(column: Categorical) -> list[int]:
    """Rows that each level of a column of codes has in its table.

    Example:

    >>> level_rows(SemanticIds("codes", "v", 2, levels=3, codes=4, rows=30))
    [4, 13, 13]
    """
    left, sizes, codes = int(column.vocabulary_size or 0), [], int(column.codes or 1)
    for level in range(column.hotness):
        size = codes if column.part == "codes" else min(codes ** (level + 1), left // (column.hotness - level))
        sizes.append(size)
        left -= size
    return sizes


def code_ids(column: Categorical, codes: np.ndarray) -> np.ndarray:
    """Codes int (n, L), -1 where there is no vector → ids of the column's table, int64 (n, L); in a graph
    `export.saved_model.vectors`.

    Example:

    >>> code_ids(SemanticIds("codes", "v", 2, levels=2, codes=4), np.array([[1, 2], [-1, -1]])).tolist()
    [[1, 10], [-1, -1]]
    """
    start, ids, number, mixed = 0, [], np.zeros(len(codes), np.int64), np.zeros(len(codes), np.uint32)
    for level, size in enumerate(level_rows(column)):
        code = codes[:, level].astype(np.int64)
        if column.part == "codes":
            number = code
        elif exact(column, level, size):
            number = number * int(column.codes or 1) + code
        mixed = mix(mixed + code.astype(np.uint32))
        own = number if exact(column, level, size) else (mixed & np.uint32(LARGEST)).astype(np.int64) % size
        ids.append(start + own)
        start += size
    return np.where(codes < 0, PADDING, np.stack(ids, axis=1))


def exact(column: Categorical, level: int, size: int) -> bool:
    """Whether each prefix, or code, of a level has a row of its own."""
    return column.part == "codes" or size == int(column.codes or 1) ** (level + 1)


def dense_entries(entries: Any) -> list[Any]:
    """Dense columns of a schema file, whose entries with a width alone are content vectors."""
    columns: list[Any] = []
    for entry in listed("dense", entries):
        if isinstance(entry, Mapping) and "width" in entry and "element" not in entry:
            columns += ContentVector(**entry)
        else:
            columns.append(from_entry(Dense, entry))
    return columns

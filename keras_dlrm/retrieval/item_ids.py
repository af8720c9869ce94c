"""Ids of items, whole numbers or texts, and their rows in an index."""

import itertools
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.schema.columns import PADDING
from keras_dlrm.support.arguments import is_list, shown

#: Id of a place for which there is no item, by the type of the ids.
NO_ID = {pl.Int64: PADDING, pl.String: ""}


def id_series(who: str, name: str, values: Any) -> pl.Series:
    """Ids as Polars holds them, Int64 or String, null where missing: -1, the empty text, null.

    Args:
        who: Who asks; errors begin with it.
        name: What the ids are called.
        values: A list, a set, an array, or a column of Polars, pandas or Arrow.

    Raises:
        TypeError: they are neither whole numbers nor texts.
        ValueError: a number beyond int64.

    Example:

    >>> id_series("example", "ids", ["a", None]).to_list(), id_series("example", "ids", np.array([3])).dtype
    (['a', None], Int64)
    """
    if not is_list(values):
        raise TypeError(f"{who}: {name}={shown(values)} must be a list or an array of ids.")
    if isinstance(values, (set, frozenset)):
        values = list(values)
    try:
        series = pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        series = pl.Series(name, [None], dtype=pl.Object)
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        return series.set(series == "", None)
    if not series.dtype.is_integer():
        if len(series) == series.null_count() and series.dtype != pl.Object:
            return series.cast(pl.Int64)
        some = shown([*itertools.islice(values, 3)])
        raise TypeError(f"{who}: {name} are {series.dtype}, such as {some}; they must be whole numbers or texts.")
    try:
        series = series.cast(pl.Int64)
        return series.set(series == PADDING, None)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{who}: {name} reach {series.max()!r}; the largest id can be {2**63 - 1}. Use texts.") from error


class ItemIds:
    """The ids of an index, in the order of its rows.

    Args:
        values: Int64 or String, all different.

    Example:

    >>> ids = ItemIds(pl.Series(["a", "b"]))
    >>> ids.rows("example", "exclude", [["b", "other"], []]).tolist(), ids.at(np.array([[1, -1]])).tolist()
    ([[1, -1], [-1, -1]], [['b', '']])
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values.alias("id")
        self.none: Any = NO_ID[type(values.dtype)]  # type: ignore[index]

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Ids of rows, of any shape: int64, or texts as objects; -1 or "" where a row is -1."""
        ids = self.values.gather(np.maximum(rows, 0).reshape(-1)).to_numpy().reshape(rows.shape)
        return np.where(rows < 0, self.none, ids)

    def rows(self, who: str, name: str, ids: Any) -> np.ndarray:
        """Lists of ids, one for each row of a batch → their rows, int32 (B, n); -1 for other ids and behind short lists.

        `TypeError` for ids of another type, and where they are no lists.
        """
        if not is_list(ids):
            raise TypeError(f"{who}: {name}={shown(ids)} must have a list of ids for each user, (B, n).")
        lists = []
        for i, each in enumerate(ids):
            if each is not None and not is_list(each):
                raise TypeError(f"{who}: {name}[{i}] is {shown(each)}; give a list of ids for each user, (B, n).")
            lists.append(np.asarray([*each] if isinstance(each, (set, frozenset)) else each).reshape(-1).tolist())
        lengths = np.array([len(each) for each in lists], np.int64)
        flat = [value for each in lists for value in each]
        table = np.full((len(lists), int(lengths.max(initial=0))), -1, np.int32)
        table[np.arange(table.shape[1]) < lengths[:, None]] = self.flat_rows(who, name, flat)
        return table

    def flat_rows(self, who: str, name: str, ids: Any) -> np.ndarray:
        """Rows of ids, int32 (n,), -1 for ids that there are not; `TypeError` for ids of another type."""
        asked = id_series(who, name, ids).alias("id")
        if len(asked) == asked.null_count():
            return np.full(len(asked), -1, np.int32)
        if asked.dtype != self.values.dtype:
            kind = "texts" if self.values.dtype == pl.String else "whole numbers"
            raise TypeError(f"{who}: {name} has {shown(asked.drop_nulls()[0])}; the ids of this index are {kind}.")
        frame = pl.DataFrame({"id": self.values}).with_row_index("row")
        joined = pl.DataFrame({"id": asked}).join(frame, on="id", how="left", maintain_order="left")
        return joined["row"].cast(pl.Int32).fill_null(-1).to_numpy()

    def __len__(self) -> int:
        return len(self.values)

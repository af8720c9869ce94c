"""Ids by first appearance, over a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl


class FirstAppearance:
    """Numbers the distinct values of a stream 0, 1, 2, … in the order in which they turn up.

    Example:

    >>> import polars as pl
    >>> ids = FirstAppearance()
    >>> ids.encode(pl.Series([70, 50, 70], dtype=pl.UInt64)).tolist()
    [0, 1, 0]
    >>> ids.encode(pl.Series([9, 50], dtype=pl.UInt64)).tolist()
    [2, 1]
    """

    def __init__(self) -> None:
        self._known: pl.DataFrame | None = None

    def __len__(self) -> int:
        return 0 if self._known is None else len(self._known)

    @property
    def values(self) -> pl.Series:
        """The distinct values; their positions are their ids."""
        import polars as pl

        return pl.Series("key", [], dtype=pl.UInt64) if self._known is None else self._known["key"]

    def encode(self, values: pl.Series) -> np.ndarray:
        """Values (n,) → int32 ids (n,); values that are new get the next ids."""
        import polars as pl

        distinct = values.alias("key").unique(maintain_order=True).to_frame()
        if self._known is None:
            self._known = distinct.with_columns(id=pl.int_range(pl.len(), dtype=pl.Int32))
            local = self._known
        else:
            # An inner join hashes the shorter side, so the cost of a batch does not follow the vocabulary.
            found = self._known.join(distinct, on="key", how="inner")
            new = distinct.join(found, on="key", how="anti", maintain_order="left")
            new = new.with_columns(id=pl.int_range(pl.len(), dtype=pl.Int32) + pl.lit(len(self), pl.Int32))
            self._known = pl.concat([self._known, new])
            local = pl.concat([found, new])
        ids = values.alias("key").to_frame().join(local, on="key", how="left", maintain_order="left")["id"]
        return ids.to_numpy()

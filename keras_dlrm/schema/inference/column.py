"""A column of the sample, and what it can be found to be."""

import dataclasses
import functools

import polars as pl

from keras_dlrm.schema.columns import Categorical, Dense
from keras_dlrm.schema.inference import names
from keras_dlrm.schema.inference.times import Times

# A column of which this share of the values are different belongs to single rows.
_UNIQUE = 0.95
# Share of values seen once from which on they are not worth a row each.
_OFTEN_RARE = 0.05
_FEW = 10_000  # rows below which what is seen a few times teaches more noise than clicks
ENOUGH = 50  # rows to tell anything by


@dataclasses.dataclass(frozen=True)
class Kind:
    """A dense or sparse column, with the reason; `unsure` where the values could as well be the other one."""

    column: Dense | Categorical
    why: str
    unsure: bool = False


# A text says why a column is left out.
Found = Kind | Times | str


@dataclasses.dataclass(frozen=True)
class Column:
    """Values of a column.

    Args:
        name: Its name.
        values: Those that are not missing, in the order of the rows.
        rows: Number of rows, of those without a value, too.
        whole: Whether all rows of the table are among them.
    """

    name: str
    values: pl.Series
    rows: int
    whole: bool = True

    @functools.cached_property
    def kinds(self) -> int:
        """Number of different values."""
        return self.values.n_unique()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names_rows(self) -> bool:
        """True where nearly each row has a value of its own. In a part of the table that says nothing of users and items."""
        unique = len(self) >= ENOUGH and self.kinds > _UNIQUE * len(self)
        return unique and (self.whole or not names.entity(self.name))

    def left_out(self) -> str:
        """The reason for which a column that names rows is left out."""
        return f"has {self.kinds:,} values in {len(self):,} rows: it names rows and says nothing about others"

    def categorical(self, why: str, unsure: bool = False) -> Kind:
        """A sparse column, with the number of its values in the reason."""
        once = int((self.values.value_counts()["count"] == 1).sum())
        rare = f", {once:,} of them once" if once else ""
        # Nothing is learned from one row, and little from a few: such values stand for those that are never seen.
        least = (2 if self.rows >= _FEW else 10) if once > _OFTEN_RARE * self.kinds else 1
        return Kind(Categorical(self.name, min_count=least), f"{why}: {self.kinds:,} values{rare}", unsure)

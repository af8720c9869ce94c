"""`Open`: a vocabulary that is never fitted, and whose ids come and go."""

import dataclasses
import re
from typing import Any

from keras_dlrm.support.arguments import choice, integer, shown

WAYS = 16  # slots of a bucket
EVICT = ("lru", "lfu")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True)
class Open:
    """An open vocabulary: any id, from 0 to 2⁶³-1, or any text, gets a row of a table of fixed size while it is in use.

    While it trains, a model gives each new id a row; where there is none, an id that is not used any more loses its row, which
    starts anew, and so do its optimizer slots. Ids without a row look up row 0, the OOV row. Evaluation, prediction and exported
    models look ids up and change nothing.

    Args:
        rows: Rows for ids, rounded up to a multiple of 16; the table has one more.
        admit: Uses in training from which on an id gets a row, at most 255: rare ids then share the OOV row.
        ttl: Time after which an id that was not used is forgotten: a number of training batches, or a text such as `"7d"`,
            `"12h"`, `"30m"` or `"45s"` of the clock of the machine that trains, on which two runs differ. `None`: never.
        evict: Id that loses its row to a new one: `"lru"`, the one used least recently, or `"lfu"`, the one used least
            frequently.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> column = kd.Categorical("item", open=Open(rows=1000, admit=2, ttl="7d"))
    >>> column.vocabulary_size, column.open.seconds
    (1009, 604800)
    """

    rows: int
    admit: int = 1
    ttl: int | str | None = None
    evict: str = "lru"

    def __post_init__(self) -> None:
        integer("Open", "rows", self.rows, 1, 2**31 - 2**16)
        integer("Open", "admit", self.admit, 1, 255)
        choice("Open", "evict", self.evict, EVICT)
        if isinstance(self.ttl, str):
            if not re.fullmatch(r"[1-9]\d*[smhd]", self.ttl):
                raise ValueError(
                    f"Open: ttl={shown(self.ttl)} must be a number of batches, or a time such as '7d', '12h', '30m' or '45s'."
                )
        elif self.ttl is not None:
            integer("Open", "ttl", self.ttl)

    @property
    def seconds(self) -> int | None:
        """`ttl` in seconds, where it is a time of the clock."""
        return int(self.ttl[:-1]) * _SECONDS[self.ttl[-1]] if isinstance(self.ttl, str) else None

    @property
    def table_rows(self) -> int:
        """Rows of the table."""
        return -(-self.rows // WAYS) * WAYS + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those at their defaults are left out."""
        fields = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, default) in fields.items() if value != default}

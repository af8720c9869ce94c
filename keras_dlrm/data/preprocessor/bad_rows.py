"""Policy for bad rows: stop at the first one, or leave them out and count them."""

import dataclasses
from typing import Any

from keras_dlrm.support.arguments import integer

ON_ERROR = ("raise", "skip")
EXAMPLES = 100
# Characters of a value that are kept: a message or a manifest is no place for a field of a megabyte.
SHOWN = 100


@dataclasses.dataclass(frozen=True)
class BadRow:
    """One row that cannot be used, and why.

    Args:
        file: Name of its file.
        row: Its number there: of the line, counted from 1, in text; of the row, counted from 0, in tables.
        column: Name of the column, or empty where the row as a whole is wrong.
        value: The value, as text; only its beginning where it is long.
        reason: What it must be.
        unit: `"line"` or `"row"`.
    """

    file: str
    row: int
    column: str
    value: str
    reason: str
    unit: str = "line"

    def __post_init__(self) -> None:
        for name, most in (("value", SHOWN), ("reason", 3 * SHOWN)):
            text = getattr(self, name)
            if len(text) > most:
                object.__setattr__(self, name, f"{text[: most - 1]}…")

    def __str__(self) -> str:
        column = f", column {self.column}: value {self.value!r}" if self.column else ":"
        return f"{self.file}, {self.unit} {self.row}{column} {self.reason}."


class BadRows:
    """A policy for rows that cannot be used, and a record of them.

    Args:
        on_error: `"raise"`: an error at the first one. `"skip"`: they are left out and counted.
        most: With `"skip"`, an error when more than so many rows were left out; `None` for no limit.

    Attributes:
        skipped: How many were left out.
        examples: The first 100 of them.

    Example:

    >>> bad = BadRows("skip")
    >>> bad.add([BadRow("day_0", 7, "C3", "xyz", "must be hexadecimal")])
    >>> bad.skipped, str(bad.examples[0])
    (1, "day_0, line 7, column C3: value 'xyz' must be hexadecimal.")
    """

    def __init__(self, on_error: str = "raise", most: int | None = None) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r} is unknown; use one of {ON_ERROR}.")
        if most is not None:
            integer("bad rows", "max_skipped", most, 0)
        if most is not None and on_error != "skip":
            raise ValueError(f"max_skipped={most} needs on_error='skip'; with {on_error!r} the first one stops the job.")
        self.on_error = on_error
        self.most = most
        self.skipped = 0
        self.examples: list[BadRow] = []

    def add(self, rows: list[BadRow], more: int = 0) -> None:
        """Take the first rows, and the number of `more`, that were found in one part of the input into account.

        `ValueError` where `on_error` is `"raise"`, or there are too many by now.
        """
        if not rows:
            return
        if self.on_error == "raise":
            raise ValueError(str(rows[0]))
        self.skipped += len(rows) + more
        self.examples += rows[: EXAMPLES - len(self.examples)]
        self._check_number(f"the last one found here: {rows[-1]}")

    def state(self) -> dict[str, Any]:
        """JSON values to keep, in a manifest or to resume from."""
        return {"skipped": self.skipped, "examples": [dataclasses.asdict(row) for row in self.examples]}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; `ValueError` where rows were left out that this policy does not leave out."""
        self.skipped = state["skipped"]
        self.examples = [BadRow(**row) for row in state["examples"]]
        if self.on_error == "raise" and self.skipped:
            raise ValueError(str(self.examples[0]))
        self._check_number(f"one of the first: {self.examples[-1]}" if self.examples else "")

    def _check_number(self, example: str) -> None:
        if self.most is not None and self.skipped > self.most:
            raise ValueError(f"{self.skipped} rows cannot be used, more than max_skipped={self.most}; {example}")

"""Layout of a table's rows on SparseCores, to and from the logical table."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Placed:
    """A table inside a stack that is dealt out to SparseCores: row r lies on core (r + rotation) mod cores.

    There it is row `offset + r // cores` of that core's part of the stack.

    Attributes:
        cores: SparseCores of all devices.
        offset: First row of the table on each core.
        rotation: Core of row 0.
        rows: Rows of the table.
        width: Columns of the table; the stack may have more.
    """

    cores: int
    offset: int
    rotation: int
    rows: int
    width: int

    def where(self, stack_rows: int) -> np.ndarray:
        """For each row of the table its row in the stack, the parts of all cores below each other (`stack_rows` in all)."""
        row = np.arange(self.rows)
        return (row + self.rotation) % self.cores * (stack_rows // self.cores) + self.offset + row // self.cores

    def take(self, stack: np.ndarray) -> np.ndarray:
        """The logical table out of its stack.

        Example:

        >>> table = np.arange(5.0)[:, None]
        >>> place = Placed(cores=2, offset=1, rotation=1, rows=5, width=1)
        >>> stack = place.put(np.zeros((8, 4)), table)
        >>> stack[:, 0].tolist()
        [0.0, 1.0, 3.0, 0.0, 0.0, 0.0, 2.0, 4.0]
        >>> bool((place.take(stack) == table).all())
        True
        """
        return stack[self.where(len(stack)), : self.width]

    def put(self, stack: np.ndarray, table: np.ndarray) -> np.ndarray:
        """The stack with the logical table's rows replaced, in place."""
        stack[self.where(len(stack)), : self.width] = table
        return stack

"""Checks of the columns that a report slices and groups by; imports no framework."""

from collections.abc import Sequence
from typing import Any

from keras_dlrm.support.arguments import shown


def check_columns(
    schema: Any, slice_by: Sequence[str] | None, group_by: str | None, names: tuple[str, str] = ("slice_by", "group_by")
) -> None:
    """`ValueError` naming a column to slice or group by that the log does not have, or that cannot be used for it.

    `names` are those of the two arguments where they were given.
    """
    for column in slice_by or ():
        if column not in schema.column_names:
            fix = "only columns that are inputs of the model are in a processed log"
            raise ValueError(f"{names[0]}: no column {shown(column)}; use one of {shown(list(schema.column_names))} ({fix}).")
    if group_by is not None:
        single = [column.name for column in schema.categorical if column.hotness == 1]
        if group_by not in single:
            fix = f"give a categorical column with one value per row: {shown(single)}"
            raise ValueError(f"{names[1]}: {shown(group_by)} cannot group rows; {fix}.")

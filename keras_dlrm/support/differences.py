"""Differences between two descriptions, such as those of two models."""

import json
from collections.abc import Mapping
from typing import Any


def difference(there: Any, here: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """The first place in which two descriptions differ, and what is there in each; `None` where they are the same.

    What is not named on one side counts as `None`. `place` is where these two are.

    Example:

    >>> difference({"layers": [{"units": 8}]}, {"layers": [{"units": 4}]})
    ('layers[0].units', 8, 4)
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = dict.fromkeys((*there, *here))
        inner = [(there.get(key), here.get(key), f"{place}.{key}" if place else str(key)) for key in keys]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        inner = [(one, other, f"{place}[{i}]") for i, (one, other) in enumerate(zip(there, here, strict=True))]
    else:
        return None if there == here else (place, there, here)
    return next(filter(None, (difference(*pair) for pair in inner)), None)


def shown(value: Any) -> str:
    """A value of a description, cut where it is long."""
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "…"

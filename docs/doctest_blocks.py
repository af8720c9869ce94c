"""Griffe extension of the API reference: examples (`>>>`) in docstrings are code blocks, wherever they stand."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n\1\S.*|\n\1 +\S.*)*)", re.MULTILINE)


def fenced(text: str) -> str:
    """A docstring with a fence around each example, which ends at the next empty line."""
    return EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", text)


class DoctestBlocks(griffe.Extension):
    """Fences the examples of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

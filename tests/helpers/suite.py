"""Tests that the suite runs on one backend, or for some of their cases, and `make soak` for the others."""

from collections.abc import Iterable
from typing import Any

import keras
import pytest


def suite_on(backend: str) -> pytest.MarkDecorator:
    """Marker of what starts programs or whole runs, in which the backend makes little difference."""
    return pytest.mark.slow if backend == keras.backend.backend() else pytest.mark.soak


def in_suite(cases: Iterable[str], *chosen: str) -> list[Any]:
    """The cases, those that are not chosen marked for `make soak`."""
    cases = list(cases)
    if not set(chosen) <= set(cases):
        raise ValueError(f"{sorted(set(chosen) - set(cases))} are none of the cases {cases}.")
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.soak) for case in cases]

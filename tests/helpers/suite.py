"""Tests that the suite runs on one backend, and `make soak` on the others."""

import keras
import pytest


def suite_on(backend: str) -> pytest.MarkDecorator:
    """Marker of what starts programs or whole runs, in which the backend makes little difference."""
    return pytest.mark.slow if backend == keras.backend.backend() else pytest.mark.soak

"""Fixtures of the tests of streams. Those that read through tensorflow-io run in its lane, `make test-io`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl
import pytest

import keras_dlrm as kd

if TYPE_CHECKING:
    from helpers.broker import Broker

SCHEMA = kd.Schema(dense=["price"], categorical=[kd.Categorical("user", 8), kd.Categorical("city")], label="click")


@pytest.fixture(scope="session")
def lane() -> None:
    """The environment of tensorflow-io; the test is skipped in another one, and fails where the lane lacks it."""
    if importlib.util.find_spec("tensorflow_io") is None:
        if os.environ.get("KERAS_DLRM_IO_LANE") == "1":
            pytest.fail("the lane of tensorflow-io runs without tensorflow-io")
        pytest.skip("needs tensorflow-io on TensorFlow 2.16: make test-io")


@pytest.fixture(scope="session")
def broker(lane: None) -> Iterator[Broker]:
    """A running broker."""
    from helpers.broker import Broker

    started = Broker()
    yield started
    started.close()


@pytest.fixture
def preprocessor() -> kd.data.Preprocessor:
    """Fitted on cities a and b."""
    return kd.data.Preprocessor.fit(SCHEMA, pl.DataFrame({"price": [1.0, 2.0], "user": [0, 1], "city": ["a", "b"]}))

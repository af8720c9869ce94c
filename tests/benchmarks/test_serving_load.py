"""The load generator of the serving benchmark: it counts what it should, and fails where it should."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from serving_load import bare_client, closed_loop, example_arrays, grpc_client, main, rest_client, table

pytestmark = pytest.mark.neutral

ROOT = Path(__file__).resolve().parents[2]


def client_that(send):
    @contextmanager
    def make():
        yield send

    return make


def test_a_closed_loop_times_each_request_and_has_one_at_a_time_per_client():
    load = closed_loop(client_that(lambda: time.sleep(0.01)), clients=3, seconds=0.5, warm_up=1)
    assert load.failures == []
    assert 3 <= len(load.latencies) <= 3 * 51
    assert load.latencies.min() >= 0.01
    assert load.milliseconds(50) <= load.milliseconds(99)
    assert set(load.row()) == {"p50 ms", "p99 ms", "requests/s", "failures"}


def test_failures_are_counted_and_are_no_latencies():
    calls = iter(range(10**9))

    def send():
        if (number := next(calls)) > 3 and number % 2:
            raise RuntimeError("no")

    load = closed_loop(client_that(send), clients=1, seconds=0.1, warm_up=2)
    assert load.failures and set(load.failures) == {"RuntimeError('no')"}
    assert len(load.latencies) > 0


def test_a_client_that_cannot_start_does_not_hold_up_the_others():
    def send():
        raise OSError("refused")

    load = closed_loop(client_that(send), clients=2, seconds=0.1)
    assert load.failures == ["OSError('refused')"] * 2
    assert np.isnan(load.milliseconds(50))


@pytest.mark.slow
def test_a_server_is_measured_beside_its_bare_signature(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")
    import keras_dlrm as kd
    from keras_dlrm.serving import ModelConfig, Server

    schema = kd.Schema(
        dense=["x"], categorical=[kd.Categorical("a", 9), kd.Categorical("b", 5, hotness=2)], weighted=True
    )
    version = kd.export.savedmodel(kd.models.DLRM(schema, 4, bottom_mlp=[4], top_mlp=[1]), tmp_path / "clicks")
    arrays = example_arrays(version, 6)
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        "dense": ("float32", (6, 1)), "sparse": ("int64", (6, 3)), "weights": ("float32", (6, 3)),
    }  # fmt: skip
    schema.validate(arrays)
    with Server([ModelConfig("clicks", tmp_path / "clicks")], port=0, grpc_port=0) as server:
        ways = {
            "bare signature": bare_client(version, arrays),
            "gRPC": grpc_client(f"127.0.0.1:{server.grpc_port}", "clicks", arrays),
            "REST": rest_client(f"127.0.0.1:{server.port}", "clicks", arrays),
        }
        rows = table([6], [2], lambda _, n: {name: closed_loop(way, n, 0.2) for name, way in ways.items()})
    assert [row["way"] for row in rows] == list(ways)
    assert [row["failures"] for row in rows] == [0, 0, 0]


def test_it_has_help():
    text = CliRunner().invoke(main, ["--help"]).output
    assert "python benchmarks/serving_load.py served/clicks" in text
    assert "--clients" in text

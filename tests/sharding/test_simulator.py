"""Predicted throughput: laws that it keeps, and how near it comes to what was published."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from published import PUBLISHED

import keras_dlrm as kd
from keras_dlrm.sharding.planner.machine import MACHINES, Machine
from keras_dlrm.sharding.planner.simulator import scaling_png, simulate, table
from keras_dlrm.sharding.planner.workload import Workload

pytestmark = pytest.mark.neutral

PLAIN = Machine(1e10, 1e12, 1e11, 1e10, link_latency=0.0)
# By what factor a prediction misses, at most. The first is what the machines' shares of their peaks were chosen by. TorchRec's
# are published for tables that do not fit the GPU. HugeCTR sends the ids of a hot column to their owner alone and computes
# while it sends; each of our parts is asked for all of them. See docs/sharding.md.
MISSES_BY = (1.05, 1.1, 1.3, 1.4, 3.1, 2.3, 3.0, 11.0)


def work(columns=8, **options):
    """One-hot columns over tables of 1000 rows."""
    return Workload.of(kd.Schema(categorical=[kd.Categorical(f"c{i}", 1000) for i in range(columns)]), 16, **options)


@pytest.mark.parametrize(
    ("point", "factor"), list(zip(PUBLISHED, MISSES_BY, strict=True)), ids=lambda p: getattr(p, "name", "")
)
def test_published_throughput_is_met_within_a_factor(point, factor):
    ratio = point.predicted() / point.examples_per_second
    assert 1 / factor < ratio < factor


def test_published_scaling_within_a_node_is_met():
    one, eight = (p for p in PUBLISHED if p.name == "NVIDIA DLRM, TensorFlow 2, AMP")
    published = eight.examples_per_second / one.examples_per_second
    assert eight.predicted() / one.predicted() == pytest.approx(published, rel=0.3)


def test_without_limits_on_links_throughput_is_linear():
    free = dataclasses.replace(PLAIN, link_bandwidth=1e30)
    found = simulate(work(dense_parameters=10**6), (1, 2, 4, 8), free)
    rates = [each.examples_per_second / size for size, each in found.items()]
    # What is left is the update of dense parameters, which all devices make.
    np.testing.assert_allclose(rates, rates[0], rtol=0.05)


def test_slower_links_never_give_more():
    rates = []
    for rate in (1e8, 1e9, 1e10, 1e11):
        found = simulate(work(), (4,), dataclasses.replace(PLAIN, link_bandwidth=rate))
        rates.append(found[4].examples_per_second)
    assert rates == sorted(rates)


def test_processes_of_one_computer_do_not_compute_faster_together():
    shared = dataclasses.replace(PLAIN, shared=True, devices_per_node=64)
    found = simulate(work(), (1, 2, 4), shared, "strong")
    assert found[1].examples_per_second > found[2].examples_per_second > found[4].examples_per_second


def test_weak_scaling_grows_the_batch_and_strong_scaling_does_not():
    assert [e.global_batch for e in simulate(work(global_batch=512), (2, 8)).values()] == [512, 2048]
    assert [e.global_batch for e in simulate(work(global_batch=512), (2, 8), scaling="strong").values()] == [512, 512]


def test_4096_devices_are_planned():
    (line,) = table(simulate(work(), (4096,)))
    assert line["devices"] == 4096 and line["examples/s"] > 0 and line["of linear"] == 1


@pytest.mark.slow
def test_tables_that_do_not_fit_are_told_and_drawn_around(tmp_path):
    large = Workload.of(kd.Schema(categorical=[kd.Categorical("a", 10**6)]), 16, dense_parameters=0)
    found = simulate(large, (1, 4), memory_bytes=5e7)
    assert found[1] is None and found[4] is not None
    assert table(found)[0]["plan"] == "the tables do not fit"
    scaling_png(found, tmp_path / "s.png", "title", {4: 1e6})
    assert (tmp_path / "s.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="do not fit on any"):
        scaling_png({1: None}, tmp_path / "t.png")


def test_unknown_scaling_and_sizes_are_refused():
    with pytest.raises(ValueError, match="scaling='medium'"):
        simulate(work(), (1,), scaling="medium")
    with pytest.raises(ValueError, match="at least one"):
        simulate(work(), ())


def test_collectives_take_what_their_bytes_take_on_the_slower_of_two_nets():
    machine = dataclasses.replace(PLAIN, link_bandwidth=100.0, network_bandwidth=10.0, devices_per_node=4)
    assert machine.all_to_all(300, 4) == pytest.approx(3)
    # Of 7 peers 3 are near: 4/7 of the bytes cross the network.
    assert machine.all_to_all(700, 8) == pytest.approx(40)
    # Each device brings a quarter of the other node's 400 bytes in.
    assert machine.all_gather(700, 8) == pytest.approx(10)
    # 2 · 3/4 within, 2 · 1/2 of a quarter across.
    assert machine.all_reduce(400, 8) == pytest.approx(10)
    assert machine.all_to_all(5, 1) == machine.all_gather(5, 1) == machine.all_reduce(5, 1) == 0


def test_machines_come_from_names_mappings_and_files(tmp_path):
    assert Machine.of("H100") is MACHINES["h100"]
    values = {"memory_bytes": 1, "flops": 2, "memory_bandwidth": 3, "link_bandwidth": 4}
    (tmp_path / "m.json").write_text('{"memory_bytes": 1, "flops": 2, "memory_bandwidth": 3, "link_bandwidth": 4}')
    assert Machine.of(values) == Machine.of(tmp_path / "m.json") == Machine(1, 2, 3, 4)
    (tmp_path / "n.json").write_text("{")
    with pytest.raises(ValueError, match=r"n\.json: not valid JSON"):
        Machine.of(tmp_path / "n.json")
    for bad, words in (
        ({**values, "flop": 1}, "'flop'"),
        ({**values, "flops": 0}, "flops=0"),
        (7, "must be a Machine"),
    ):
        with pytest.raises(ValueError, match=words):
            Machine.of(bad)

"""Speeds of devices, their memory and their links: the basis of predicted step times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_dlrm.files.documents import from_json
from keras_dlrm.files.paths import regular
from keras_dlrm.support.arguments import boolean, integer, number, shown


@dataclasses.dataclass(frozen=True)
class Machine:
    """One kind of device, many of which make a node, many of which make a cluster. Rates are those reached, not peaks.

    Args:
        memory_bytes: Memory of a device.
        flops: Floating-point operations per second in matrix products.
        memory_bandwidth: Bytes per second that it reads and writes.
        link_bandwidth: Bytes per second that a device sends to others of its node.
        link_latency: Seconds that a collective within a node takes at least.
        devices_per_node: Devices in a node.
        network_bandwidth: Bytes per second that a device sends to other nodes; the link's if omitted.
        network_latency: Seconds that a collective across nodes takes at least; the link's if omitted.
        message_seconds: Seconds per peer that an all-to-all takes besides.
        row_seconds: Seconds per looked-up row that do not depend on its width: ids are sorted, repeated ones added up.
        step_seconds: Seconds of a step that depend on nothing: kernels are launched, the batch is fetched.
        host_row_seconds: Seconds that a row of host tables takes from the file into the device's cache, and another one back.
        shared: Whether `flops`, `memory_bandwidth`, `link_bandwidth` and the rows are those of a whole node, whose processes
            share them: several processes on one computer.
        source: Where the values are from.

    Raises:
        ValueError: a value is not a positive number.

    Example:

    >>> ours = dataclasses.replace(MACHINES["a100"], link_bandwidth=12e9)
    >>> ours.all_to_all(12e9, 2) > 1.0
    True
    """

    memory_bytes: float
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    link_latency: float = 2e-5
    devices_per_node: int = 8
    network_bandwidth: float | None = None
    network_latency: float | None = None
    message_seconds: float = 0.0
    row_seconds: float = 0.0
    step_seconds: float = 0.0
    host_row_seconds: float = 1e-6
    shared: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        above_zero = {"memory_bytes", "flops", "memory_bandwidth", "link_bandwidth", "network_bandwidth"}
        for field in (*sorted(above_zero), "link_latency", "network_latency", "message_seconds", "row_seconds", "step_seconds",
                      "host_row_seconds"):  # fmt: skip
            value = getattr(self, field)
            if value is not None or field not in ("network_bandwidth", "network_latency"):
                low = math.ulp(0.0) if field in above_zero else 0.0
                object.__setattr__(self, field, number("Machine", field, value, low=low))
        object.__setattr__(self, "devices_per_node", integer("Machine", "devices_per_node", self.devices_per_node))
        object.__setattr__(self, "shared", boolean("Machine", "shared", self.shared))

    @classmethod
    def of(cls, value: Any) -> Machine:
        """Make one from an instance, a name in `MACHINES`, a mapping of arguments, or a JSON file with one.

        Raises:
            ValueError: an unknown name or argument.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value.lower() in MACHINES:
            return MACHINES[value.lower()]
        if isinstance(value, (str, Path)):
            if Path(value).suffix != ".json":
                raise ValueError(
                    f"machine {str(value)!r} is unknown; use one of {list(MACHINES)}, or a .json file with the arguments of "
                    "kd.sharding.Machine."
                )
            path = value
            try:
                value = from_json(regular(path, "give a machine in JSON").read_bytes())
                if not isinstance(value, Mapping):
                    raise ValueError(f"it holds {shown(value)}, not the arguments of kd.sharding.Machine by name.")
                return cls.of(value)
            except ValueError as error:
                raise ValueError(f"machine file {path}: {error}") from None
        if not isinstance(value, Mapping):
            raise ValueError(f"machine={value!r} must be a Machine, one of {list(MACHINES)}, or a mapping of its values.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in value:
            if name not in known:
                raise ValueError(f"Machine: unknown argument {name!r}; known are {known}.")
        lacking = [name for name in known[:4] if name not in value]
        if lacking:
            raise ValueError(f"Machine: {lacking[0]!r} is missing; it needs {known[:4]}.")
        return cls(**value)

    def crowd(self, world_size: int) -> int:
        """The number of processes that share a node's resources."""
        return min(world_size, self.devices_per_node) if self.shared else 1

    def all_to_all(self, sent: float, world_size: int) -> float:
        """Seconds until each process has sent `sent` bytes, in equal parts, to the others."""
        if world_size == 1:
            return 0.0
        same = (min(world_size, self.devices_per_node) - 1) / (world_size - 1)
        return self._latency(world_size) + self._time(sent * same, sent * (1 - same), world_size)

    def all_gather(self, received: float, world_size: int) -> float:
        """Seconds until each process has received `received` bytes, in equal parts, from the others.

        What comes from another node enters a node once, over the network of one device, and is passed on within.
        """
        if world_size == 1:
            return 0.0
        node = min(world_size, self.devices_per_node)
        across = received * (world_size - node) / (world_size - 1) / node
        return self._latency(world_size) + self._time(received, across, world_size)

    def all_reduce(self, size: float, world_size: int) -> float:
        """Seconds until each process has the sum of arrays of `size` bytes: over rings within nodes and across them."""
        if world_size == 1:
            return 0.0
        node = min(world_size, self.devices_per_node)
        nodes = math.ceil(world_size / node)
        within = 2 * size * (node - 1) / node
        across = 2 * size / node * (nodes - 1) / nodes
        # A tree's steps: its latency grows with the logarithm.
        hops = math.ceil(math.log2(nodes)) if nodes > 1 else 0
        network = self.link_latency if self.network_latency is None else self.network_latency
        return self.link_latency + hops * network + self._time(within, across, world_size, messages=False)

    def _latency(self, world_size: int) -> float:
        if world_size <= self.devices_per_node or self.network_latency is None:
            return self.link_latency
        return self.network_latency

    def _time(self, within: float, across: float, world_size: int, messages: bool = True) -> float:
        link = self.link_bandwidth / self.crowd(world_size)
        network = link if self.network_bandwidth is None else self.network_bandwidth
        peers = (world_size - 1) * self.message_seconds if messages else 0.0
        return max(within / link, across / network) + peers


# GPUs: NVIDIA's data sheets (dense bfloat16 and TF32 rates, HBM, NVLink in one direction, one InfiniBand port a GPU), times the
# share that is reached. The shares, the seconds per row and those per step are chosen so that one A100 gives what NVIDIA publishes
# for it (DLRM, 64k examples; `benchmarks.published`); they are the same for all GPUs.
_PRODUCTS, _HBM, _LINK, _NETWORK = 0.47, 0.75, 0.75, 0.8


def _gpu(source: str, memory: float, flops: float, hbm: float, nvlink: float, port: float) -> Machine:
    return Machine(
        memory_bytes=memory, flops=_PRODUCTS * flops, memory_bandwidth=_HBM * hbm, link_bandwidth=_LINK * nvlink, link_latency=3e-5,
        network_bandwidth=_NETWORK * port, network_latency=6e-5, message_seconds=5e-7, row_seconds=1e-9, step_seconds=1.4e-3,
        source=source,
    )  # fmt: skip


#: Machines by name.
MACHINES: dict[str, Machine] = {
    "a100": _gpu("A100-80GB SXM data sheet, bfloat16; HDR InfiniBand", 80e9, 312e12, 2.039e12, 300e9, 25e9),
    "a100_tf32": _gpu("A100-80GB SXM data sheet, TF32; HDR InfiniBand", 80e9, 156e12, 2.039e12, 300e9, 25e9),
    "a100_40gb": _gpu("A100-40GB SXM data sheet, TF32; HDR InfiniBand", 40e9, 156e12, 1.555e12, 300e9, 25e9),
    "h100": _gpu("H100 SXM data sheet, bfloat16; NDR InfiniBand", 80e9, 989e12, 3.35e12, 450e9, 50e9),
    # Processes of one computer of 2 cores: products and a whole step are measured (benchmarks/RESULTS.md, "Training step,
    # kaggle, batch 2048, float32"), the rest is assumed: gloo over the loopback device.
    "loopback": Machine(
        memory_bytes=24e9, flops=1.75e11, memory_bandwidth=2e10, link_bandwidth=1.5e9, link_latency=3e-4, devices_per_node=4096,
        row_seconds=1.5e-7, step_seconds=2e-3, shared=True, source="2 cores of an AMD EPYC, measured; loopback assumed",
    ),
}  # fmt: skip

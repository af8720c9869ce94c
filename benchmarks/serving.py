"""Time of a request: the exported model beside a PyTorch EmbeddingBag DLRM, at batch 1, 64 and 2048.

    python benchmarks/serving.py --write

A model of 26 tables of 100,000 rows × 16 is exported as a SavedModel and as ONNX, each with float32 and with int8 tables.
All programs are processes of their own and take turns. PyTorch runs eagerly, traced and frozen, and compiled: its best
is what ours are held against. Then the local stand-in server's answers are timed beside the bare signature's.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from contest import Program
from results import machine, markdown_table, report, write_option
from serving_load import measure, stand_in, table
from workload import Shape

PROGRAM = Path(__file__).parent / "peers" / "serving.py"
BATCHES = {1: 2000, 64: 500, 2048: 40}  # batch → requests of a round
CONTESTANTS = {
    "predict": "`predict_on_batch`, TensorFlow",
    "savedmodel:saved": "SavedModel signature",
    "savedmodel:saved_int8": "SavedModel signature, int8 tables",
    "plain:saved": "SavedModel signature, TF_ENABLE_ONEDNN_OPTS=0",
    "caller:saved": "the same in a session that runs in the caller's thread",
    "onnx:model.onnx": "ONNX Runtime",
    "onnx:model_int8.onnx": "ONNX Runtime, int8 tables",
    "onnx:products.onnx": "ONNX Runtime, the matrix products alone",
    "onnx:empty.onnx": "ONNX Runtime, nothing",
    "torch:eager": "PyTorch, eager",
    "torch:traced": "PyTorch, traced and frozen",
    "torch:compiled": "PyTorch, compiled",
}
WITHOUT_ONEDNN = ("plain:saved", "caller:saved")
PEERS = [kind for kind in CONTESTANTS if kind.startswith("torch")]
SHAPE = Shape((100_000,) * 26)
Times = dict[tuple[str, int], list[list[float]]]  # contestant and batch → milliseconds by round


def prepare(folder: Path) -> None:
    """Write the model in all its forms."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_dlrm as kd

    schema = SHAPE.schema()
    model = kd.models.DLRM(schema, 16, bottom_mlp=[512, 256, 64, 16], top_mlp=[512, 256, 1], seed=0)
    model.predict({"dense": np.zeros((1, 13), np.float32), "sparse": np.zeros((1, 26), np.int64)}, verbose=0)
    model.save(folder / "model.keras")
    kd.export.savedmodel(model, folder / "saved")
    kd.export.savedmodel(model, folder / "saved_int8", tables="int8")
    kd.export.onnx(model, folder / "model.onnx")
    kd.export.onnx(model, folder / "model_int8.onnx", tables="int8")
    write_floors(folder)


def write_floors(folder: Path) -> None:
    """ONNX files of an empty request, and of the products with biases and ReLUs; one of 16 × 367 stands for the interaction."""
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    products = list(SHAPE.products)
    products.insert(len(SHAPE.bottom), (SHAPE.dim, SHAPE.top_inputs))
    floors = {"empty": [helper.make_node("Identity", ["dense"], ["probability"])], "products": []}
    constants, x = [], "dense"
    for i, (n, m) in enumerate(products):
        kernel, bias, y = draw.normal(0, n**-0.5, (n, m)).astype(np.float32), np.zeros(m, np.float32), f"product_{i}"
        constants += [numpy_helper.from_array(kernel, f"kernel_{i}"), numpy_helper.from_array(bias, f"bias_{i}")]
        floors["products"].append(helper.make_node("Gemm", [x, f"kernel_{i}", f"bias_{i}"], [y]))
        x = f"relu_{i}" if i < len(products) - 1 else "probability"
        floors["products"].append(helper.make_node("Relu" if i < len(products) - 1 else "Sigmoid", [y], [x]))
    inputs = [
        helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["B", SHAPE.n_dense]),
        helper.make_tensor_value_info("sparse", TensorProto.INT64, ["B", SHAPE.ids]),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)]
    for name, nodes in floors.items():
        graph = helper.make_graph(nodes, name, inputs, outputs, constants if name == "products" else [])
        opset = [helper.make_opsetid("", 18)]
        (folder / f"{name}.onnx").write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def take_turns(folder: Path, kinds: Sequence[str], rounds: int) -> Times:
    """Each contestant's latencies. The first round only warms up."""
    programs: dict[str, Program] = {}
    found: Times = {}
    try:
        for kind in kinds:
            plain = {"TF_ENABLE_ONEDNN_OPTS": "0"} if kind in WITHOUT_ONEDNN else {}
            command = [sys.executable, str(PROGRAM), kind, str(folder)]
            programs[kind] = Program(kind, command, KERAS_BACKEND="tensorflow", **plain)
        for batch, calls in BATCHES.items():
            for round_ in range(-1, rounds):
                order = list(kinds) if round_ % 2 == 0 else list(reversed(kinds))
                for kind in order:
                    programs[kind].tell(f"{batch} {calls}")
                    times = json.loads(programs[kind].answer())
                    if round_ >= 0:
                        found.setdefault((kind, batch), []).append(times)
                        p50 = statistics.median(times)
                        print(f"batch {batch}, round {round_ + 1}/{rounds}  {kind}: {p50:.3f} ms", file=sys.stderr)
    finally:
        for program in programs.values():
            program.end()
    return found


def lines(found: Times, kinds: Sequence[str]) -> list[dict[str, str]]:
    """A line per contestant: p50, p99, and how much faster than the best of PyTorch, round by round."""
    table = []
    for kind in kinds:
        line = {"program": CONTESTANTS[kind]}
        for batch in BATCHES:
            rounds = found[kind, batch]
            every = sorted(t for times in rounds for t in times)
            mine = [statistics.median(times) for times in rounds]
            best = [min(statistics.median(found[p, batch][r]) for p in PEERS if p in kinds) for r in range(len(rounds))]
            faster = statistics.median(b / m for b, m in zip(best, mine, strict=True))
            line[f"batch {batch}: p50, ms"] = f"{statistics.median(mine):.3f}"
            line["p99" + " " * list(BATCHES).index(batch)] = f"{every[int(0.99 * len(every))]:.3f}"
            line["× PyTorch's best" + " " * list(BATCHES).index(batch)] = f"{faster:.2f}"
        table.append(line)
    return table


def stand_ins_overhead(versions: Path, seconds: float) -> list[dict[str, Any]]:
    """Time that the local server adds to the bare signature, one client at a time."""
    with stand_in(versions) as server:
        rest, grpc = (f"127.0.0.1:{server[port]}" for port in ("port", "grpc_port"))
        name = next(iter(server["models"]))
        take = functools.partial(
            measure, versions, seconds=seconds, rest=rest, grpc=grpc, model=name, signature="serving_default"
        )
        return table(list(BATCHES), [1], take)


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="These contestants; all by default.")
@write_option
def main(rounds: int, only: tuple[str, ...], into_results: bool) -> None:
    """Measure ours and PyTorch's in turns."""
    kinds = list(only) or list(CONTESTANTS)
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        found = take_turns(Path(name), kinds, rounds)
        overhead = stand_ins_overhead(Path(name) / "saved", seconds=5.0)
    text = f"{markdown_table(lines(found, kinds))}\n\nThe local stand-in server, one client:\n\n{markdown_table(overhead)}"
    calls = ", ".join(f"{calls} of {batch}" for batch, calls in BATCHES.items())
    note = f"{machine()}, 26 tables of 100,000 rows × 16, medians of {rounds} rounds ({calls} rows)."
    report("Answering requests", note, text, into_results)


if __name__ == "__main__":
    main()

"""Memory: what exporting a large model to ONNX takes beside the model, and what processes that serve the file share.

python benchmarks/onnx_memory.py
python benchmarks/onnx_memory.py --preset criteo_kaggle --tables int8 --backend torch --write
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
from contest import Program
from results import backends_option, machine, markdown_table, measured, report, write_option

EXPORT = """
import json, sys, time
import numpy as np, onnx, onnxruntime
import keras_dlrm as kd
from keras_dlrm.models.presets import PRESETS

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

model = PRESETS[sys.argv[1]].build(seed=0, compile=False)
model.predict({"dense": np.zeros((1, 13), "float32"), "sparse": np.zeros((1, 26), "int64")}, verbose=0)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins again
before, start = status("VmRSS"), time.time()
kd.export.onnx(model, sys.argv[2], tables=sys.argv[3] or None)
print(json.dumps({"model": 4 * model.count_params(), "beside": status("VmHWM") - before, "seconds": time.time() - start}))
"""
SERVE = """
import json, sys, time
import numpy as np, onnx, onnxruntime

def memory():
    lines = (line.split() for line in open("/proc/self/smaps_rollup"))
    found = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("Rss:", "Pss:")}
    return [found["Rss:"], found["Pss:"]]

start = time.time()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
seconds = time.time() - start
about = {p.key: p.value for p in onnx.load(sys.argv[1], load_external_data=False).metadata_props}
rows = [table["rows"] for table in json.loads(about["keras_dlrm.tables"])]
rng = np.random.default_rng(0)
for _ in range(150):
    session.run(None, {"dense": np.zeros((8192, 13), np.float32), "sparse": rng.integers(0, rows, (8192, len(rows)))})
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([seconds, *memory()]), flush=True)
sys.stdin.readline()
"""


def exported(preset: str, path: Path, backend: str, tables: str | None) -> dict[str, float]:
    """Memory and time of a process that builds and exports the model."""
    return measured([sys.executable, "-c", EXPORT, preset, str(path), tables or ""], KERAS_BACKEND=backend)


def served(path: Path, processes: int) -> list[list[float]]:
    """Seconds to load, resident and proportional bytes of processes that serve the file at the same time."""
    running: list[Program] = []
    try:
        for _ in range(processes):
            running.append(Program("a server", [sys.executable, "-c", SERVE, str(path)]))
        found = []
        for program in running:
            program.tell()
            found.append(json.loads(program.answer()))
        return found
    finally:
        for program in running:
            program.end()


@click.command()
@click.option("--preset", default="criteo_kaggle", show_default=True, help="A model with 13 dense columns of kd.models.")
@backends_option
@click.option("--tables", help="As kd.export.onnx takes it.")
@click.option("--processes", default=2, show_default=True)
@write_option
def main(preset: str, backends: tuple[str, ...], tables: str | None, processes: int, into_results: bool) -> None:
    """Export from each backend in a process of its own; then serve the file from one process, and from several."""
    rows, shared = [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        for backend in backends:
            found = exported(preset, path, backend, tables)
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            rows.append(
                {"backend": backend, "model": f"{found['model'] / 1e9:.2f} GB", "file": f"{size / 1e9:.2f} GB",
                 "seconds": f"{found['seconds']:.1f}", "peak beside the model": f"{found['beside'] / 1e9:.2f} GB",
                 "of the model": f"{found['beside'] / found['model']:.2f}"}
            )  # fmt: skip
            click.echo(rows[-1])
        for count in (1, processes):
            for seconds, resident, proportional in served(path, count):
                shared.append(
                    {"processes": count, "loads in": f"{seconds:.2f} s", "resident": f"{resident / 1e9:.2f} GB",
                     "its share (PSS)": f"{proportional / 1e9:.2f} GB"}
                )  # fmt: skip
                click.echo(shared[-1])
    text = f"{markdown_table(rows)}\n\nAfter 150 batches of 8,192 random rows:\n\n{markdown_table(shared)}"
    report(f"Memory of ONNX export, {preset}, tables {tables or 'as trained'}", f"{machine()}.", text, into_results)


if __name__ == "__main__":
    main()

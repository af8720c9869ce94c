"""Rows a second and peak memory of preprocessing a Criteo-shaped log, beside the reference's own algorithm.

python benchmarks/preprocess.py --rows 1000000
python benchmarks/preprocess.py --write
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import click
import criteo_log
from results import machine, markdown_table, measured, report, write_option

PEER = Path(__file__).parent / "peers" / "reference_preprocess.py"
# Compiled code comes from its cache, as in every run but a machine's first.
OURS = """
import json, re, sys, time
from keras_dlrm.data import criteo
arguments = json.loads(sys.argv[3])
start = time.perf_counter()
log = criteo.preprocess(sys.argv[1], sys.argv[2], **arguments)
seconds = time.perf_counter() - start
print(json.dumps({"rows": sum(len(log.split(s)) for s in log.splits), "seconds": seconds,
                  "peak": int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])}))
"""
WAYS: dict[str, dict[str, Any]] = {
    "classic": {},
    "classic, shuffle total": {"shuffle": "total"},
    "classic, max_ind_range 10M": {"max_ind_range": 10_000_000},
    "torchrec": {"dialect": "torchrec"},
    "torchrec, min_count 3, shuffle total": {"dialect": "torchrec", "min_count": 3, "shuffle": "total"},
}


def measure(command: list[str]) -> dict[str, Any]:
    """Rows, seconds and peak memory that a process prints."""
    return measured(command, KERAS_BACKEND=os.environ.get("KERAS_BACKEND", "jax"))


def row(name: str, found: dict[str, Any], reference: float) -> dict[str, str]:
    """A line of the table."""
    rate = found["rows"] / found["seconds"]
    return {
        "what": name, "rows": f"{found['rows']:,}", "seconds": f"{found['seconds']:.1f}", "rows/s": f"{rate:,.0f}",
        "× reference": f"{rate / reference:.1f}", "peak memory": f"{found['peak'] / 2**20:.2f} GiB",
    }  # fmt: skip


@click.command()
@click.option("--rows", default=5_000_000, show_default=True, help="Lines of the log.")
@click.option("--peer-rows", default=100_000, show_default=True, help="First lines of it that the reference gets.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; a temporary folder by default.")
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), default=list(WAYS), show_default=True)
@write_option
def main(rows: int, peer_rows: int, folder: Path | None, ways: tuple[str, ...], into_results: bool) -> None:
    """Make the log, and run the reference's algorithm and each way in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        log, part, out = Path(name) / "log.txt", Path(name) / "part.txt", Path(name) / "out"
        sizes = criteo_log.write(log, rows)
        with open(log, "rb") as source, open(part, "wb") as target:
            target.writelines(islice(source, min(rows, peer_rows)))
        # Compiles where nothing was compiled yet.
        measure([sys.executable, "-c", OURS, str(part), str(out), "{}"])
        shutil.rmtree(out)
        peer = measure([sys.executable, str(PEER), str(part)])
        reference = peer["rows"] / peer["seconds"]
        table = [row("the reference's algorithm", peer, reference)]
        for way in ways:
            found = measure([sys.executable, "-c", OURS, str(log), str(out), json.dumps(WAYS[way])])
            table.append(row(way, found, reference))
            shutil.rmtree(out)
        gigabytes = log.stat().st_size / 1e9
    note = (
        f"A made-up log of {rows:,} lines ({gigabytes:.2f} GB, about {sum(sizes.values()):,} distinct values, Zipf with "
        f"exponent {criteo_log.EXPONENT}); the reference's algorithm, on the first {peer['rows']:,} lines of it. "
        f"`python benchmarks/preprocess.py --rows {rows}`, {machine()}."
    )
    report("Preprocessing a Criteo log", note, markdown_table(table), into_results)


if __name__ == "__main__":
    main()

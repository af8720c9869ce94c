"""Measured tables: sections of RESULTS.md, replaced when they are measured again."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

backends_option = click.option(
    "--backend", "backends", multiple=True, default=["tensorflow", "jax", "torch"], show_default=True
)
write_option = click.option("--write", "into_results", is_flag=True, help="Put the tables into benchmarks/RESULTS.md.")
RESULTS = Path(__file__).parent / "RESULTS.md"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Processor, cores, versions and date of a measurement."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for name in ("tensorflow", "keras", "jax", "torch"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{cpu}, {cores} cores, {', '.join(versions)}, {datetime.date.today()}"


def measured(command: Sequence[str], **environment: str) -> Any:
    """The JSON value in the last line that a process prints."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **environment}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(title: str, note: str, text: str, into_results: bool) -> None:
    """Print tables, and put them with a note into RESULTS.md where that was asked for."""
    click.echo(text)
    if into_results:
        write_section(title, f"{note}\n\n{text}")


def write_section(title: str, text: str) -> None:
    """Replace the section `### title` of RESULTS.md, or add it at the end."""
    whole = RESULTS.read_text(encoding="utf-8")
    section = f"### {title}\n\n{text}\n"
    pattern = re.compile(rf"^### {re.escape(title)}\n.*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(whole):
        whole = pattern.sub(lambda _: section + "\n", whole)
    else:
        whole = whole.rstrip() + "\n\n" + section
    RESULTS.write_text(whole.rstrip() + "\n", encoding="utf-8")

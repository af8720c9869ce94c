"""Every Python and shell block of README.md and docs/*.md runs, in order, in an empty folder.

A block may opt out with `<!-- not run: reason -->` on the line above its fence, but only where all that it does is make
an environment, or call make, pip or docker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.neutral

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
LANGUAGES = {"python": "python", "py": "python", "bash": "bash", "sh": "bash", "shell": "bash", "console": "console"}
NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
MAY_SKIP = re.compile(
    r"^(\w+=\S+ +)*(make|pip|pip3|docker|cd|git clone|source|\.|deactivate|"
    r"(\S*/)?python[\d.]* -m (venv|pip)|\S*/bin/pip)( |$)"
)
FOLDERS = ("trainers", "benchmarks", "savedmodel", "docs")

# Runs the blocks of one document in one process: Python blocks share a namespace, shell blocks a folder.
DRIVER = """
import json, subprocess, sys
document, blocks = json.load(open(sys.argv[1]))
namespace = {"__name__": "__main__"}
for language, line, code in blocks:
    sys.stderr.write(f"{document}:{line}: {language} block\\n")
    if language == "python":
        exec(compile("\\n" * line + code, document, "exec"), namespace)
    else:
        sys.stdout.flush()
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
"""


class Block(NamedTuple):
    """A fenced block: its language, the line of its fence, its code, and whether it is marked as not run."""

    language: str
    line: int
    code: str
    skipped: bool


def blocks(text: str) -> list[Block]:
    """The Python and shell blocks of a Markdown text, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = re.match(r"^( *)(`{3,}) *(\w*)", lines[at])
        if not fence:
            at += 1
            continue
        indent, ticks, language = len(fence[1]), fence[2], LANGUAGES.get(fence[3])
        end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == ticks)
        if language:
            code = "\n".join(line[indent:] for line in lines[at + 1 : end])
            skipped = at > 0 and bool(NOT_RUN.match(lines[at - 1].strip()))
            found.append(Block(language, at + 1, commands(code) if language == "console" else code, skipped))
        at = end + 1
    return found


def commands(session: str) -> str:
    """The lines typed after `$ ` in a console session, with their continuation lines."""
    typed: list[str] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            typed.append(line[2:])
        elif typed and typed[-1].endswith("\\"):
            typed.append(line.removeprefix("> "))
    return "\n".join(typed)


def forbidden_skips(block: Block) -> list[str]:
    """Commands of a block marked as not run that are no reason not to run it."""
    if block.language == "python":
        return [block.code]
    lines = [line.strip() for line in block.code.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines if line and not line.startswith("#") for part in re.split(r"&&|;", line)]
    return [part for part in parts if not MAY_SKIP.match(part)]


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_run(document, tmp_path):
    run = [(b.language, b.line, b.code) for b in blocks(document.read_text(encoding="utf-8")) if not b.skipped]
    if not run:
        pytest.skip(f"{document.name} has no block to run")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for folder in FOLDERS:
        if (ROOT / folder).is_dir():
            (workspace / folder).symlink_to(ROOT / folder)
    (tmp_path / "blocks.json").write_text(json.dumps([document.name, run]))
    (tmp_path / "driver.py").write_text(DRIVER)
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "blocks.json")],
        cwd=workspace, env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, f"{document.name}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_only_environment_commands_are_not_run(document):
    skipped = [b for b in blocks(document.read_text(encoding="utf-8")) if b.skipped]
    assert {f"{document.name}:{b.line}": forbidden_skips(b) for b in skipped if forbidden_skips(b)} == {}


def test_blocks_are_found_with_their_language_line_and_marker():
    text = "\n".join(
        ["# T", "```python", "x = 1", "```", "<!-- not run: makes an environment -->", "```bash", "make test", "```"]
        + ["```text", "out", "```", "- item", "  ```console", "  $ echo a \\", "  > b", "  a b", "  ```"]
    )
    assert blocks(text) == [
        Block("python", 2, "x = 1", False),
        Block("bash", 6, "make test", True),
        Block("console", 13, "echo a \\\nb", False),
    ]


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("make train", []),
        ("python3 -m venv .venv && .venv/bin/pip install -e .\nsource .venv/bin/activate", []),
        ("pip install \\\n  keras-dlrm", []),
        ("# first\nKEY=1 docker compose up", []),
        ("keras-dlrm train", ["keras-dlrm train"]),
        ("cd x && python train.py", ["python train.py"]),
        ("makefile", ["makefile"]),
    ],
)
def test_a_skip_is_allowed_for_environment_commands_only(code, refused):
    assert forbidden_skips(Block("bash", 1, code, True)) == refused

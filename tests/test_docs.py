"""Documents: code blocks run, paths exist, trees and the reference are complete, types resolve for users.

Every Python and shell block of README.md, CONTRIBUTING.md and docs/*.md runs, in order, in an empty folder; so do the cells
of the notebooks in docs/tutorials.

A block may opt out with `<!-- not run: reason -->` on the line above its fence, but only where all that it does is make
an environment, or call make, pip or docker.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers.children import environment

pytestmark = pytest.mark.neutral

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NOTEBOOKS = sorted(DOCS.glob("tutorials/*.ipynb"))
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
sys.path.insert(0, "")  # modules of the folder, as in an interactive session
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


# What a newcomer reads first, and what is about TensorFlow's own parts, runs on the backend that is Keras's without a word. The
# others run on torch, which does not trace: what they start trains for a moment, and tracing took most of their time.
ON_TENSORFLOW = ("README.md", "first-model.ipynb", "serving.md", "parameter-servers.md")


@pytest.fixture
def variables(request, document):
    """The environment of a document's programs, for which Keras is imported once."""
    of_all = environment()
    del of_all["KERAS_BACKEND"]
    programs = "tensorflow_programs"
    if document.name not in ON_TENSORFLOW:
        of_all["KERAS_BACKEND"], programs = "torch", "torch_programs"
    folders = [request.getfixturevalue(programs), Path(sys.executable).parent, of_all["PATH"]]
    return {**of_all, "PATH": os.pathsep.join(map(str, folders))}


@pytest.mark.slow
@pytest.mark.parametrize("document", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_blocks_run(document, tmp_path, variables):
    if document in NOTEBOOKS:
        notebooks = load(DOCS / "notebooks.py")
        run = [("python", number, code) for number, code in enumerate(notebooks.sources(notebooks.read(document)), 1)]
    else:
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
    done = subprocess.run(
        ["python", "../driver.py", "../blocks.json"], cwd=workspace, env=variables, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{document.name}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("document", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_of_a_notebook_are_those_of_its_code(document):
    notebooks = load(DOCS / "notebooks.py")
    notebook = notebooks.read(document)
    assert notebook["metadata"]["keras_dlrm"]["sources"] == notebooks.digest(notebook), "run `python docs/notebooks.py`"
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert outputs and document.stat().st_size < 300_000
    assert not re.search(r"/tmp/|/home/|/root/|/work/|Traceback", json.dumps(outputs))


def test_a_cell_has_what_it_prints_and_shows():
    notebooks, namespace = load(DOCS / "notebooks.py"), {}
    shown = "class Shown:\n    _repr_html_ = lambda self: '<b>1</b>'\n    __repr__ = lambda self: 'one'\n"
    printed, shown = notebooks.outputs(f"{shown}print(2)\nShown()", "cell", namespace)
    assert printed == {"output_type": "stream", "name": "stdout", "text": ["2\n"]}
    assert shown["data"] == {"text/plain": ["one"], "text/html": ["<b>1</b>"]}
    assert notebooks.outputs("x = Shown()", "cell", namespace) == [] and "x" in namespace
    cells = [{"cell_type": "markdown", "source": ["# T"]}, {"cell_type": "code", "source": ["print(2)"], "outputs": [printed]}]
    page = load(DOCS / "site.py").page_of({"cells": cells})
    assert page == "# T\n\n```python\nprint(2)\n```\n\n```text\n2\n```\n"


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


def load(path):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_folder_trees_are_those_of_the_code():
    tree = load(DOCS / "tree.py")
    stale = [page.name for kind, page in tree.PAGES.items() if page.read_text(encoding="utf-8") != tree.updated(kind)]
    assert stale == [], "run `make tree`"


def test_the_diagram_has_the_layers_of_the_contract_in_order():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = re.findall(r'^    \w+\["([^"—]*) —', (DOCS / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [layer for layer in drawn if "/" not in layer] == layers


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_named_files_exist(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if document.name == "CHANGELOG.md":  # the table of renames has names that are gone
        text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    folders = "keras_dlrm|trainers|benchmarks|savedmodel|docs|tests"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.-]*\w/?)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def pages(entries):
    """Pages of a navigation tree."""
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [target] if isinstance(target, str) else pages(target)


def test_the_site_has_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/name:", "")
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    written += [path.relative_to(DOCS).with_suffix(".md").as_posix() for path in NOTEBOOKS]
    gathered = [page for page in load(DOCS / "site.py").PAGES.values() if page.endswith(".md")]
    assert sorted(pages(yaml.safe_load(text)["nav"])) == sorted(written + gathered)


def test_the_site_shows_paths_for_files_that_are_not_its_pages():
    on_site, page = load(DOCS / "site.py").on_site, DOCS / "api" / "x.md"
    assert (
        on_site("[log](../../CHANGELOG.md#x) [data](../data.md)", page) == "[log](../changelog.md#x) [data](../data.md)"
    )
    assert on_site("[that](../../savedmodel) `[a](b)`", page) == "that (`savedmodel`) `[a](b)`"
    assert on_site("[data](docs/data.md)", ROOT / "README.md") == "[data](data.md)"
    with pytest.raises(ValueError, match="link to nowhere.md"):
        on_site("[x](nowhere.md)", page)


def test_examples_of_docstrings_are_code_on_the_site():
    pytest.importorskip("griffe")
    fenced = load(DOCS / "doctest_blocks.py").fenced
    assert fenced("A.\n\n>>> f(\n...     1\n... )\n2\n\nB.") == "A.\n\n```pycon\n>>> f(\n...     1\n... )\n2\n```\n\nB."


PUBLIC = (
    "", "models", "layers", "optimizers", "metrics", "data", "data.streaming", "data.synthetic", "checkpoint", "sharding",
    "parameter_server", "export", "convert", "scoring", "serving",
)  # fmt: skip
# Functions that each backend has its own of: the page of `sharding` describes them together.
TOGETHER = {f"sharding.{name}" for name in ("start", "stop", "process_count", "process_rank")}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_reference_has_every_public_name(package):
    reference = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md"))
    listed = set(re.findall(r"^::: keras_dlrm\.(\S+)$", reference, re.MULTILINE)) | TOGETHER
    module = importlib.import_module(f"keras_dlrm.{package}".rstrip("."))
    values = {name: getattr(module, name) for name in getattr(module, "__all__", vars(module)) if name[0] != "_"}
    names = [name for name, value in values.items() if inspect.isroutine(value) or inspect.isclass(value)]
    assert [name for name in names if f"{package}.{name}".lstrip(".") not in listed] == []


@pytest.mark.slow
def test_types_resolve_for_a_user(tmp_path):
    assert (ROOT / "keras_dlrm" / "py.typed").exists()
    program = (
        "import keras_dlrm as kd\nreveal_type(kd.models.DLRM)\nreveal_type(kd.Schema)\nreveal_type(kd.data.open)\n"
    )
    (tmp_path / "user.py").write_text(program)
    # In the repository and with its options: what `make types` found out before is not found out again.
    command = [sys.executable, "-m", "mypy", str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert done.returncode == 0 and len(revealed) == 3, done.stdout + done.stderr
    assert [kind.rpartition("-> ")[2].rpartition(".")[2] for kind in revealed] == ["DLRM", "Schema", "ClickLog"]

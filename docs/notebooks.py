"""Run the notebooks of docs/tutorials and store what their cells print and show; Jupyter is not needed.

python docs/notebooks.py                                    # all
python docs/notebooks.py docs/tutorials/first-model.ipynb   # one

Each runs in a process and an empty folder of its own. A test runs the same cells, and compares the digest of the sources
that the outputs are of.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "tutorials"


def read(path: Path) -> dict[str, Any]:
    """A notebook as JSON has it."""
    return json.loads(path.read_text(encoding="utf-8"))


def sources(notebook: dict[str, Any]) -> list[str]:
    """The code of its cells, in order."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def digest(notebook: dict[str, Any]) -> str:
    """Checksum of its code."""
    return hashlib.sha256("\0".join(sources(notebook)).encode()).hexdigest()


def outputs(source: str, name: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """Outputs of a cell as a notebook stores them: its prints, its last expression and its plots."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    shown: list[dict[str, Any]] = []
    if printed.getvalue():
        shown.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        shown.append({"output_type": "display_data", "metadata": {}, "data": data})
    pyplot = sys.modules.get("matplotlib.pyplot")
    for number in pyplot.get_fignums() if pyplot else ():
        picture = io.BytesIO()
        pyplot.figure(number).savefig(picture, format="png", dpi=80, bbox_inches="tight")
        pyplot.close(number)
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        shown.append({"output_type": "display_data", "metadata": {}, "data": data})
    return shown


def run(path: Path) -> None:
    """Run a notebook in the working folder, and store its outputs."""
    notebook, namespace = read(path), {"__name__": "__main__"}
    sys.path.insert(0, "")  # modules of the folder
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        cell["outputs"] = outputs("".join(cell["source"]), f"cell {number}", namespace)
        cell["execution_count"] = number
    notebook["metadata"]["keras_dlrm"] = {"sources": digest(notebook)}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(paths: list[str]) -> None:
    """Run notebooks, all by default, each in a process of its own."""
    for path in map(Path, paths) if paths else sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            variables = {**os.environ, "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_DLRM_NOTEBOOK": str(path.resolve())}
            subprocess.run([sys.executable, Path(__file__).resolve()], cwd=folder, env=variables, check=True)


if __name__ == "__main__":
    if "KERAS_DLRM_NOTEBOOK" in os.environ:
        run(Path(os.environ.pop("KERAS_DLRM_NOTEBOOK")))
    else:
        main(sys.argv[1:])

"""Gather the pages of the documentation site in build/docs: `make docs` builds the site from there.

Pages of docs/ link to files of the repository as `../CHANGELOG.md`, which works where the repository is read. On the
site some of these files are pages of their own; of all others the path is shown instead of a link.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs"
TARGET = ROOT / "build" / "docs"
# Code, which stays as it is, or a link.
LINK = re.compile(r"```.*?```|(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)|`[^`\n]*`", re.DOTALL)
# Files outside of docs/ that are pages of the site, and the pictures on them.
PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/TRIED.md": "tried.md",
    "benchmarks/scaling.png": "scaling.png",
    "benchmarks/table_size.png": "table_size.png",
    "benchmarks/beyond_memory.png": "beyond_memory.png",
    "benchmarks/time_to_quality_criteo_20k.png": "time_to_quality_criteo_20k.png",
}


def gather() -> None:
    """Write all pages into build/docs anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(SOURCE, TARGET, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__"))
    for page in sorted(TARGET.rglob("*.md")):
        source = SOURCE / page.relative_to(TARGET)
        page.write_text(on_site(source.read_text(encoding="utf-8"), source), encoding="utf-8")
    for path in sorted(SOURCE.rglob("*.ipynb")):
        target = TARGET / path.relative_to(SOURCE).with_suffix(".md")
        target.write_text(on_site(page_of(json.loads(path.read_text(encoding="utf-8"))), path), encoding="utf-8")
    for path, page in PAGES.items():
        if page.endswith(".md"):
            text = on_site((ROOT / path).read_text(encoding="utf-8"), ROOT / path)
            (TARGET / page).write_text(text, encoding="utf-8")
        else:
            shutil.copy(ROOT / path, TARGET / page)


def page_of(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: text, code, and what the code printed and showed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f'<img alt="plot" src="data:image/png;base64,{data["image/png"]}">')
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_site(text: str, source: Path) -> str:
    """Text of a page with links that fit the site.

    Raises:
        ValueError: A link to a file that the repository does not have.
    """
    folder = source.parent if source.is_relative_to(SOURCE) else SOURCE  # where the page lies on the site

    def replaced(match: re.Match[str]) -> str:
        picture, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if target is None or re.match(r"\w+:", target):
            return match[0]
        path = (source.parent / target).resolve()
        if not path.exists():
            raise ValueError(f"{source.relative_to(ROOT)}: link to {target}, which the repository does not have.")
        name = path.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"{picture}[{label}]({os.path.relpath(SOURCE / PAGES[name], folder)}{anchor})"
        if path.is_relative_to(SOURCE) and path.is_file():
            path = path.with_suffix(".md") if path.suffix == ".ipynb" else path
            return f"{picture}[{label}]({os.path.relpath(path, folder)}{anchor})"
        return f"`{name}`" if label.strip("`/") == name.strip("/") else f"{label} (`{name}`)"

    return LINK.sub(replaced, text)


if __name__ == "__main__":
    gather()

"""Write the folder trees of docs/architecture.md and docs/files.md from the first lines of the docstrings.

python docs/tree.py            # rewrite both pages
python docs/tree.py --check    # exit with 1 if a page is out of date
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "keras_dlrm"
PAGES = {"folders": ROOT / "docs" / "architecture.md", "files": ROOT / "docs" / "files.md"}


def caption(path: Path) -> str:
    """First line of a module's docstring, without its period."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].strip().removesuffix(".")


def modules(folder: Path) -> list[Path]:
    """Modules directly in a folder, but for `__init__.py` and `__main__.py`."""
    return sorted(path for path in folder.glob("*.py") if not path.stem.startswith("__"))


def packages(folder: Path) -> list[Path]:
    """Packages directly in a folder."""
    return sorted(path.parent for path in folder.glob("*/__init__.py"))


def tree(folder: Path, files: bool, depth: int = 0) -> list[tuple[str, str]]:
    """Lines of a tree as (indented name, caption): packages first, then, if asked for, the modules of each."""
    lines = [("  " * depth + folder.name + "/", caption(folder / "__init__.py"))]
    for package in packages(folder):
        lines += tree(package, files, depth + 1)
    if files or depth == 0:
        lines += [("  " * (depth + 1) + path.name, caption(path)) for path in modules(folder)]
    return lines


def block(files: bool) -> str:
    """A tree as a fenced block, captions in one column."""
    lines = tree(PACKAGE, files)
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(["```text", *(f"{name:{width}}{text}".rstrip() for name, text in lines), "```"])


def updated(kind: str) -> str:
    """Text of a page with its tree made anew."""
    text = PAGES[kind].read_text(encoding="utf-8")
    start, end = f"<!-- tree: {kind} -->\n", "\n<!-- end of tree -->"
    if start not in text or end not in text:
        raise ValueError(f"{PAGES[kind]} has no place for a tree: write {start.strip()} and {end.strip()}.")
    return re.sub(
        re.escape(start) + ".*?" + re.escape(end), lambda _: start + block(kind == "files") + end, text, flags=re.DOTALL
    )


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with `--check` name those that are out of date."""
    stale = [kind for kind, page in PAGES.items() if page.read_text(encoding="utf-8") != updated(kind)]
    for kind in stale:
        if "--check" in arguments:
            print(f"{PAGES[kind].relative_to(ROOT)} is out of date: run `make tree`.")
        else:
            PAGES[kind].write_text(updated(kind), encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

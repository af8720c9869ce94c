"""YAML and JSON documents as plain values: unique keys, finite numbers, bounded size."""

import functools
import json
import math
import os
import re
from typing import Any

from keras_dlrm.files.paths import regular

_DEEPEST = 50
# Values that references may stand for, whatever the length of the text.
_REPEATED = 10_000


def read(path: str | os.PathLike[str], what: str) -> Any:
    """The value of a file in YAML, or in JSON where its name says so; `what` it should hold is for the errors.

    `OSError` where there is no such file, or no regular one; `ValueError`, which names the file, as of `from_yaml` and
    `from_json`.
    """
    ending = os.path.splitext(path)[1].lower()
    try:
        text = regular(path, f"give {what} in {'JSON' if ending == '.json' else 'YAML'}").read_text(encoding="utf-8")
        return from_json(text) if ending == ".json" else from_yaml(text)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; give {what} in YAML or JSON.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_json(text: str | bytes, finite: bool = True) -> Any:
    """The value of a JSON text, UTF-8 where it is bytes. NaN and infinity, which JSON has not, are refused if `finite`."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused if finite else float, parse_float=_parsed)
    except RecursionError:
        raise ValueError("not valid JSON (it is nested too deeply).") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({str(error).rstrip('.')}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} is there twice in one object; a key stands for one value")
    return values


def _refused(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has; give a finite one")


def _parsed(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:60]} is too large a number")
    return value


def from_yaml(text: str) -> Any:
    """The value of a YAML text. `1e-6` is a number in it, as it is everywhere else.

    References to another part of the text are taken, as long as they do not make much out of little. `ValueError`,
    which names the line, where it is not YAML, has a key twice or one that is no text, or a value that is no text,
    number, list or mapping, or refers to itself.
    """
    import yaml

    try:
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, max(_REPEATED, len(text)))
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("not valid YAML (it is nested too deeply).") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"not valid YAML ({' '.join(str(error).split()).rstrip('.')}).") from None


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """A loader of YAML's texts, numbers, lists and mappings."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > _DEEPEST:
                raise ValueError(f"line {self.peek_event().start_mark.line + 1}: nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    number = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _check(root: Any, most: int) -> None:
    """`ValueError` where a tree of YAML nodes is not a plain value, or stands for more than `most` values."""
    import yaml

    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        line = node.start_mark.line + 1
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise ValueError(f"line {line}: a value that refers to itself")
            return sizes[id(node)]
        sizes[id(node)] = 0
        inner: list[Any] = []
        _check_kind(node)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        count = 1 + sum(size(part) for part in inner)
        if count > most:
            raise ValueError(f"line {line}: references stand for more than {most:,} values; write them out")
        sizes[id(node)] = count
        return count

    size(root)


def _check_keys(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.tag != "tag:yaml.org,2002:str":
            if not isinstance(key.value, str):
                raise ValueError(f"line {line}: a key is a list or a mapping; it must be a text")
            raise ValueError(f"line {line}: the key {key.value[:60]} is not a text; put it in quotes")
        if key.value in seen:
            raise ValueError(f"line {line}: the key {key.value[:60]!r} is there twice; a key stands for one value")
        seen.add(key.value)


def _check_kind(node: Any) -> None:
    line, kind = node.start_mark.line + 1, node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in ("str", "int", "float", "bool", "null", "merge", "seq", "map"):
        what = repr(node.value[:60]) if isinstance(node.value, str) else "a value"
        raise ValueError(f"line {line}: {what} is taken for a {kind[:60]}; put it in quotes, if it is a text")
    # YAML writes .inf and .nan, and may have _ between digits.
    if kind == "float" and not math.isfinite(float(re.sub(r"\.(?=[A-Za-z])|_", "", node.value))):
        raise ValueError(f"line {line}: {node.value[:60]} is not a finite number")

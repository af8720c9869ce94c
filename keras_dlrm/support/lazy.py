"""Lazy imports: packages whose modules and names load on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, names: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, as PEP 562 has them; its `__all__` says what it has.

    Args:
        package: The package's `__name__`.
        names: Module of each name that loads on first use, below the package or with its whole name.
        modules: Module that each of these names stands for, in the same way.

    Example:

    >>> get, _ = lazy("keras_dlrm.data", {"open": "packed.packed"})
    >>> get("open").__name__
    'open'
    """
    namespace = vars(sys.modules[package])

    def module(path: str) -> Any:
        return importlib.import_module(path if path.startswith("keras_dlrm.") else f"{package}.{path}")

    def get(name: str) -> Any:
        if modules and name in modules:
            return module(modules[name])
        if name in names:
            value = getattr(module(names[name]), name)
            namespace[name] = value
            return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {namespace['__all__']}.")

    return get, lambda: sorted({*namespace, *namespace["__all__"]})

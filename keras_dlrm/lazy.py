"""Packages whose modules and names load on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def lazy(
    package: str, names: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, as PEP 562 has them; its `__all__` says what it has.

    Args:
        package: The package's `__name__`.
        names: Module, below the package, of each name that loads on first use.
        modules: Modules that do.

    Example:

    >>> get, _ = lazy("keras_dlrm.data", {"open": "packed"})
    >>> get("open").__name__
    'open'
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name in names:
            value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
            namespace[name] = value
            return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {namespace['__all__']}.")

    return get, lambda: sorted({*namespace, *namespace["__all__"]})

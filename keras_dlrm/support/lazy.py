"""Lazy imports: modules and names of a package on first use, and what waits for Keras."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from keras_dlrm.support.quiet import quiet_imports


def lazy(
    package: str, names: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package by its `__name__`, as PEP 562 has them; its `__all__` says what it has.

    `names` has the module of each name that loads on first use, below the package or with its whole name; `modules` the
    module that a name stands for.

    Example:

    >>> get, _ = lazy("keras_dlrm.data", {"open": "packed.packed"})
    >>> get("open").__name__
    'open'
    """
    namespace = vars(sys.modules[package])

    def module(path: str) -> Any:
        with quiet_imports():
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


def after_keras(then: Callable[[], None]) -> None:
    """Call a function once Keras is imported, or now where it is.

    Keras is not imported here: a program may choose its backend later.
    """
    if "keras" in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _KerasFinder(then))


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Leaves finding Keras to the others, and has `then` called once Keras is imported."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

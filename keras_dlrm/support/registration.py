"""Registration of classes with Keras, imported when a saved model needs them."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def register_later(package: str, register: Callable[[], None]) -> None:
    """Have Keras call `register` when it looks for a class `package>Name` that it does not know.

    Keras itself is not imported here: a program may choose its backend later.

    Args:
        package: As in `keras.saving.register_keras_serializable(package)`.
        register: Imports the modules whose classes are registered.
    """
    if "keras" in sys.modules:
        _install(package, register)
    else:
        sys.meta_path.insert(0, _KerasFinder(functools.partial(_install, package, register)))


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


class _Registered(dict[str, Any]):
    """Keras's registered classes by name, which asks for those of a package when one is looked up."""

    def __init__(self, known: dict[str, Any], package: str, register: Callable[[], None]) -> None:
        super().__init__(known)
        self.prefix, self.register = f"{package}>", register

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name) and isinstance(name, str) and name.startswith(self.prefix):
            self.register()
        return super().__contains__(name)


def _install(package: str, register: Callable[[], None]) -> None:
    # Keras has no public way to register a name without its class.
    registration = importlib.import_module("keras.src.saving.object_registration")
    registration.GLOBAL_CUSTOM_OBJECTS = _Registered(registration.GLOBAL_CUSTOM_OBJECTS, package, register)  # type: ignore[attr-defined]

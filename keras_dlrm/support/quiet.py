"""Imports of frameworks without the log of TensorFlow's C++ side, and without packages that Keras does not need."""

import contextlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType

# Of absl, before it is initialized no level of its own holds, and of older logs: information, warnings, and errors such as
# that there is no GPU. What is fatal stays.
_NOISE = re.compile(
    rb"^(?:WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ [^\s:]+:\d+\] .*"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: [IWE] \S+:\d+\] .*"
    rb"|To enable the following instructions: .*)(?:\r?\n|$)",
    re.MULTILINE,
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While this context is open, standard error is held back at its descriptor; then all but the C++ side's log is written.

    Where an error leaves the context nothing is left out: the log may say why.

    Example:

    >>> with quiet():
    ...     pass
    """
    whole = False
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    try:
        with tempfile.TemporaryFile() as held:
            _flush()
            os.dup2(held.fileno(), 2)
            try:
                yield
            except Exception:
                whole = True
                raise
            finally:
                _flush()
                os.dup2(kept, 2)
                held.seek(0)
                text = held.read()
                with contextlib.suppress(OSError), open(2, "wb", closefd=False) as errors:
                    errors.write(text if whole else _NOISE.sub(b"", text))
    finally:
        os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """While this context is open, TensorFlow is imported quietly, by whichever module imports it."""
    with _around(tensorflow=_quietly):
        yield


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """While this context is open, Keras is imported without the packages that only its plots, wrappers and the like need.

    These take a third of its import's time where they are installed. It is for programs, which call nothing of that kind: in a
    process that was begun so, Keras takes them for not installed. Others import them as ever.
    """
    with _around(keras=_leanly):
        yield


@contextlib.contextmanager
def _quietly(module: ModuleType) -> Iterator[None]:
    with quiet():
        yield
        # It looks for GPUs once, and says at length that there are none: here, not in the midst of a result.
        module.config.list_physical_devices()


@contextlib.contextmanager
def _leanly(module: ModuleType) -> Iterator[None]:
    names = ["matplotlib", "pandas", "PIL", "sklearn"]
    if os.environ.get("KERAS_BACKEND") in ("tensorflow", "torch"):
        names.append("jax")  # of Orbax's checkpoints
    with _around(**dict.fromkeys(names, _missing)):
        yield


@contextlib.contextmanager
def _missing(module: ModuleType) -> Iterator[None]:
    raise ImportError(f"{module.__name__} is not imported for Keras in this program.", name=module.__name__)
    yield


@contextlib.contextmanager
def _around(**contexts: Callable[[ModuleType], AbstractContextManager[None]]) -> Iterator[None]:
    """While this context is open, modules are executed within contexts, which are given by the modules' names."""
    finder = _Around(contexts)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


class _Around(importlib.abc.MetaPathFinder):
    """Leaves finding modules to the others, and has them executed within contexts."""

    def __init__(self, contexts: Mapping[str, Callable[[ModuleType], AbstractContextManager[None]]]) -> None:
        self.contexts = contexts

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.contexts:
            return None
        # Contexts within one another have one of these each, which would ask each other without end.
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Around))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with self.contexts[name](module):
                    execute(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

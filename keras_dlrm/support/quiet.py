"""Quiet imports of frameworks: what TensorFlow's C++ side writes on standard error as it loads is left out."""

import contextlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
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
    finder = _Quietly()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


class _Quietly(importlib.abc.MetaPathFinder):
    """Leaves finding TensorFlow to the others, and has it executed quietly."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        # Contexts within one another have one of these each, which would ask each other without end.
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Quietly))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with quiet():
                    execute(module)
                    # It looks for GPUs once, and says at length that there are none: here, not in the midst of a result.
                    module.config.list_physical_devices()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

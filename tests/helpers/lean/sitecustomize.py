"""Leaves out what Keras and TensorFlow only try to import: a program of the tests starts in half of the time.

Python imports it at the start of each program that a test starts: `tests/conftest.py` puts its folder on PYTHONPATH.
"""

import sys

# Module → what tries to import it, and does without.
OPTIONAL = {
    "jax": ("tensorflow.lite.", "keras.src.callbacks."),
    "matplotlib": ("keras.src.visualization.",),
    "pandas": ("keras.src.trainers.",),
    "sklearn": ("keras.src.wrappers.",),
}


class LeaveOut:
    """A finder that finds no module, and refuses optional ones."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Nothing; raise if an optional module is imported by what does without it."""
        if name in OPTIONAL:
            frame = sys._getframe(1)
            while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib."):
                frame = frame.f_back
            if frame is not None and frame.f_globals.get("__name__", "").startswith(OPTIONAL[name]):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, LeaveOut)

"""Packages that are not always installed, and how each is."""

import importlib.util

_EXTRAS = {
    "jax": "jax", "jaxlib": "jax", "torch": "torch",
    "onnx": "onnx", "onnxruntime": "onnx", "tf2onnx": "onnx",
    "grpc": "serving", "tensorflow_serving": "serving", "starlette": "serving", "uvicorn": "serving", "httptools": "serving",
    "orjson": "serving", "prometheus_client": "serving",
    "optuna": "tune", "faiss": "ann", "usearch": "ann", "keras_rs": "tpu", "tensorflow_recommenders": "tfrs", "tf_keras": "tfrs",
}  # fmt: skip
# In the default install, but an environment can lack it, as JAX and torch train without it.
_PLAIN = ("tensorflow", "tensorboard", "pandas")


def install(module: str) -> str | None:
    """The command that installs a module which this package can use; `None` for any other module.

    Example:

    >>> install("jax.numpy"), install("my_models")
    ("pip install 'keras-dlrm[jax]'", None)
    """
    name = module.partition(".")[0]
    if name in _EXTRAS:
        return f"pip install 'keras-dlrm[{_EXTRAS[name]}]'"
    return f"pip install {name}" if name in _PLAIN else None


def require(who: str, module: str) -> None:
    """`ImportError` with that command where a module is not installed; `who` needs it. Nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{who} needs {module}, which is not installed: {install(module)}.")

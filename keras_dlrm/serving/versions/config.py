"""Configuration of what is served: a folder of versions, or a `models.config`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[^/:\s]+")


@dataclass(frozen=True)
class ModelConfig:
    """A served model: its name, the folder of its versions, and which of them are loaded.

    Args:
        name: Name in the address of a request.
        base_path: Folder whose subfolders with a number for a name are the versions.
        latest: How many of the highest versions are loaded; 0 for all of them.
        versions: The versions that are loaded, instead of the highest.
        labels: Version by label, such as `{"stable": 3, "canary": 4}`.

    Raises:
        ValueError: a name that no address can hold, or a wrong number.

    Example:

    >>> ModelConfig("clicks", Path("served"), labels={"stable": 1}).wanted([1, 2, 5])
    [5]
    >>> ModelConfig("clicks", Path("served"), versions=(1, 2)).wanted([1, 2, 5])
    [1, 2]
    """

    name: str
    base_path: Path
    latest: int = 1
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The server looks into it again and again, whatever folder the program works in by then.
        object.__setattr__(self, "base_path", Path(self.base_path).absolute())
        for what, name in (("model name", self.name), *((f"model {self.name!r}: label", label) for label in self.labels)):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{what} {name!r} must have no blank, '/' or ':', and not be empty.")
        if self.latest < 0:
            raise ValueError(f"model {self.name!r}: latest={self.latest} must be >= 0.")

    def wanted(self, numbers: list[int]) -> list[int]:
        """The versions to load, of those in the folder, ascending."""
        if self.versions:
            return [number for number in numbers if number in self.versions]
        return numbers[-self.latest :] if self.latest else numbers

    def check_folder(self) -> None:
        """`FileNotFoundError` or `ValueError`, with the fix, unless the folder exists and is not itself a version."""
        if not self.base_path.is_dir():
            fix = "give the folder of the versions, such as served for served/1/saved_model.pb"
            raise FileNotFoundError(f"model {self.name!r}: no folder {self.base_path}; {fix}.")
        if (self.base_path / "saved_model.pb").exists():
            fix = "give the folder above it, with a number for its name"
            raise ValueError(f"model {self.name!r}: {self.base_path} is a SavedModel itself; {fix}.")


def read_config(path: str | Path) -> list[ModelConfig]:
    """The models of a `models.config`, which TensorFlow Serving takes as `--model_config_file`.

    Args:
        path: Text form of a `ModelServerConfig`. A relative `base_path` starts at the folder of this file.

    Returns:
        One entry per model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such text, or says something that is not served; the message names the file.

    Example: see docs/serving.md.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no models.config at {path}.")
    try:
        parsed = text_format.Parse(path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
        models = [_model(config, path.parent) for config in parsed.model_config_list.config]
    except (text_format.ParseError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not models:
        raise ValueError(f"{path}: it lists no model; it needs model_config_list {{ config {{ … }} }}.")
    names = [model.name for model in models]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"{path}: model {repeated!r} is listed twice; give each model a name of its own.")
    return models


def _model(config: Any, folder: Path) -> ModelConfig:
    if config.model_platform != "tensorflow":
        raise ValueError(f'model {config.name!r}: model_platform {config.model_platform!r} must be "tensorflow".')
    if not config.base_path:
        raise ValueError(f"model {config.name!r}: it has no base_path.")
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific" and not policy.specific.versions:
        raise ValueError(f"model {config.name!r}: the policy 'specific' lists no version.")
    return ModelConfig(
        config.name,
        folder / config.base_path,
        latest=0 if kind == "all" else (policy.latest.num_versions or 1) if kind == "latest" else 1,
        versions=tuple(policy.specific.versions) if kind == "specific" else (),
        labels=dict(config.version_labels),
    )

"""Commits of a model together with its position in a stream."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import keras

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import identified, vocabulary_identity
from keras_dlrm.files.checksums import Done, read_sealed, sealed
from keras_dlrm.files.durable import publish, sync, workspace
from keras_dlrm.files.inventory import check_contents, check_sizes, inventory
from keras_dlrm.files.marker import check_marker
from keras_dlrm.files.ownership import check, identity, lock, mark
from keras_dlrm.support.arguments import integer

FORMAT = "keras_dlrm commit"
VERSION = 1
MODEL = "model.keras"
STATE = "state.json"
PREPROCESSOR = "preprocessor"


class Commits(contextlib.AbstractContextManager["Commits"]):
    """A folder of commits. Each is a model with its optimizer, and JSON values that say how far the stream was read.

    A commit is written aside, flushed to the disk and renamed: a kill at any moment leaves the one before. It is a
    folder `commit-00000007` with a `model.keras` that loads anywhere.

    The folder also keeps the preprocessor: with other vocabularies the same ids would mean other values.

    Args:
        folder: Made where there is none.
        keep: How many of the latest commits stay.

    Attributes:
        number: Of the last commit; 0 where there is none.

    Raises:
        RuntimeError: another process works in the folder.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> with Commits(tempfile.mkdtemp()) as commits:
    ...     commits.save(model, {"positions": {"clicks:0": 7}})
    ...     commits.load()[1]
    {'positions': {'clicks:0': 7}}
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        self.folder = Path(folder).absolute()
        self.keep = integer("Commits", "keep", keep)
        taken = f"{self.folder}: another process trains into it; wait for that one or give another folder."
        self._lock = lock(self.folder, taken)
        self.number = max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        matches = (re.fullmatch("commit-([0-9]{8,})", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, number: int) -> Path:
        """Folder of a commit."""
        return self.folder / f"commit-{number:08d}"

    def check(self, preprocessor: Preprocessor) -> None:
        """Keep the preprocessor, or compare it with the one that is kept.

        Args:
            preprocessor: The one of the stream.

        Raises:
            ValueError: another one is kept; the message says what differs.
        """
        place = self.folder / PREPROCESSOR
        if not place.exists():
            with workspace(self.folder / "commit") as folder:
                preprocessor.save(folder / PREPROCESSOR)
                self._publish(folder / PREPROCESSOR, place)
            return
        kept = Preprocessor.load(place)
        theirs, ours = ({name: vocabulary_identity(v) for name, v in p.vocabularies.items()} for p in (kept, preprocessor))
        differs = [
            f"the vocabulary of table {name!r}" for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)
        ]
        if json.loads(json.dumps(preprocessor.dense_state)) != kept.dense_state:
            differs.append("the statistics of the dense columns")
        # Those of earlier releases do not carry their identities.
        if len({identified(p.schema, p.dense_state, p.vocabularies) for p in (kept, preprocessor)}) > 1:
            differs.append("the schema")
        if differs:
            raise ValueError(
                f"{self.folder}: the model there was trained with another preprocessor: {differs[0]} differs. Give that "
                f"one ({place}), or another folder."
            )

    def save(self, model: keras.Model, state: Any) -> None:
        """Commit the model and how far the stream was read.

        Args:
            model: Compiled or not.
            state: JSON values.
        """
        place = self.path(self.number + 1)
        with workspace(self.folder / "commit") as folder:
            written = folder / place.name
            written.mkdir()
            model.save(written / MODEL)
            content = {"format": FORMAT, "version": VERSION, "state": state, "files": inventory(written, [MODEL])}
            (written / STATE).write_text(json.dumps(sealed(content), indent=1), encoding="utf-8")
            os.close(mark(written, _owner(place), (MODEL, STATE)))
            self._publish(written, place)
            self.number += 1
            for old in self._numbers()[: -self.keep]:
                # Renamed first: a kill in the middle must not leave half a commit that looks whole.
                with contextlib.suppress(OSError):  # one that something else was put into stays
                    check(self.path(old), _owner(self.path(old)), "a commit")
                    self.path(old).rename(folder / f"old-{old}")

    def load(self) -> tuple[keras.Model, Any]:
        """Model and state of the last commit.

        Raises:
            FileNotFoundError: there is none.
            ValueError: damaged, or written in another version of the format.
        """
        if not self.number:
            raise FileNotFoundError(f"{self.folder}: there is no commit.")
        place = self.path(self.number)
        try:
            content = read_commit(place)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place} cannot be read ({error}); remove it to resume from the one before.") from error
        return keras.saving.load_model(place / MODEL), content["state"]

    def _publish(self, written: Path, place: Path) -> None:
        for path in written.iterdir():
            sync(path)
        publish(written, place)

    def close(self) -> None:
        """Let another process work here."""
        self._lock.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def _owner(place: Path) -> str:
    return identity("commit", place.name)


def read_commit(place: Path, done: Done = lambda size: None) -> dict[str, Any]:
    """Content of a commit's state file, after all its files were compared with their checksums; earlier releases wrote none.

    `done` is called with the bytes of each part that was read. `ValueError` where it is damaged or of another version.
    """
    check_marker(place)
    content = read_sealed(place / STATE, required=False)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(
            f"{place / STATE}: format {content.get('format')!r}, version {content.get('version')!r}; this release reads "
            f"{FORMAT!r}, version {VERSION}."
        )
    entries = content.get("files", {})
    check_contents(check_sizes(place, entries, place / STATE), entries, done)
    return content

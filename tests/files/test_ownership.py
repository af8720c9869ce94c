"""Whatever is not this package's own survives every command that replaces, resumes or cleans up."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from helpers.owned import SCHEMA, packed, seen, trained

from keras_dlrm.data import tables
from keras_dlrm.data.packed.writer import list_file
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.files import ownership
from keras_dlrm.files.ownership import MARKER, identity, mark
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral


def preprocessed(output: Path) -> None:
    rows = output.parent / "rows.csv"
    rows.write_text("x,click\n1,0\n2,1\n")
    tables.preprocess(SCHEMA, rows, output=output, overwrite=True)


COMMANDS = {"packed": packed, "preprocessed": preprocessed, "trained": trained}
KINDS = {"packed": "packed log", "preprocessed": "packed log", "trained": "run"}


class Place:
    """A folder with things of ours and of somebody else.

    Attributes:
        root: The folder.
        out: The output of the command.
        foreign: What must be there afterwards.
    """

    def __init__(self, root: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.command, self.patch = root, command, monkeypatch
        self.out = root / "out"
        self.foreign: list[Path] = []
        self.held: list[int] = []

    def ours(self, path: Path) -> Path:
        COMMANDS[self.command](path)
        return path

    def file(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
        self.foreign.append(path)
        return path

    def folder(self, path: Path) -> Path:
        self.file(path / "sub" / "thesis.tex")
        for name in ("manifest.json", "experiment.yaml", "schema.json", "state.json", "lock", "data.json"):
            self.file(path / name)
        self.foreign.append(path)
        return path

    def link(self, path: Path, target: Path) -> Path:
        path.symlink_to(target)
        self.foreign.append(path)
        return path

    def marked(self, path: Path, kind: str, place: Path) -> Path:
        self.folder(path)
        os.close(mark(path, identity(kind, place)))
        self.foreign.append(path / MARKER)
        return path


def other_output(place: Place) -> None:
    place.foreign.append(place.ours(place.root / "elsewhere"))


SITUATIONS: dict[str, Callable[[Place], object]] = {
    "the output is a link to a foreign folder": lambda p: p.link(p.out, p.folder(p.root / "victim")),
    "the output is a link to a folder of ours": lambda p: p.link(p.out, _kept(p, p.ours(p.root / "victim"))),
    "the output is a foreign folder with our names": lambda p: p.folder(p.out),
    "the output is a file": lambda p: p.file(p.out),
    "the output is a pipe": lambda p: _pipe(p, p.out),
    "the output is ours without its marker": lambda p: _without_marker(p),
    "the output was renamed from another place": lambda p: _kept(p, p.ours(p.root / "was").rename(p.out)),
    "the output was copied from another place": lambda p: _kept(p, shutil.copytree(p.ours(p.root / "was"), p.out)),
    "the output is the working folder": lambda p: p.patch.chdir(_kept(p, p.ours(p.out))),
    "the output holds the working folder": lambda p: _inside(p),
    "the output is the home folder": lambda p: p.patch.setenv("HOME", str(_kept(p, p.ours(p.out)))),
    "the output is a mount point": lambda p: _mounted(p, p.ours(p.out)),
    "the output holds a mount point": lambda p: _mounted(p, p.ours(p.out) / "train"),
    "the marker is a link to the right one": lambda p: _linked_marker(p),
    "the marker is damaged": lambda p: _damaged_marker(p),
    "a foreign file in ours": lambda p: p.file(p.ours(p.out) / "thesis.tex"),
    "a foreign file deep in ours": lambda p: p.file(p.ours(p.out) / "train" / "thesis.tex"),
    "a read-only file in ours": lambda p: p.file(p.ours(p.out) / "thesis.tex").chmod(0o400),
    "a repository in ours": lambda p: p.file(p.ours(p.out) / ".git" / "HEAD"),
    "an empty folder in ours": lambda p: (_kept(p, p.ours(p.out) / "empty")).mkdir(),
    "a pipe in ours": lambda p: _pipe(p, p.ours(p.out) / "pipe"),
    "a socket in ours": lambda p: _socket(p, p.ours(p.out) / "socket"),
    "a pipe of our name in ours": lambda p: _replaced(p, _pipe),
    "a link in ours": lambda p: p.link(p.ours(p.out) / "link", p.folder(p.root / "victim")),
    "a link of our name in ours": lambda p: _replaced(p, lambda q, at: at.symlink_to(q.file(q.root / "victim" / "big"))),
    "a hard link of our name in ours": lambda p: _replaced(p, lambda q, at: os.link(q.file(q.root / "big"), at)),
    "a foreign partial folder": lambda p: p.folder(p.root / ".out.partial"),
    "a partial folder that is a link": lambda p: p.link(p.root / ".out.partial", p.folder(p.root / "victim")),
    "a partial folder of another place": lambda p: p.marked(p.root / ".out.partial", "staging", p.root / "other"),
    "a foreign folder that seems left over": lambda p: p.folder(p.root / ".writing-0123456789ab"),
    "a folder left over of another output": lambda p: p.marked(p.root / ".writing-0123456789ab", "workspace", p.root / "x"),
    "a link that seems left over": lambda p: p.link(p.root / ".writing-0123456789ab", p.folder(p.root / "victim")),
    "a folder that a living process works in": lambda p: _living(p),
    "names of earlier releases": lambda p: [p.folder(p.root / name) for name in (".out.0123abcd.writing", "out.old", "OUT")],
    "an output of ours beside": other_output,
}


def _kept(place: Place, path: Path) -> Path:
    place.foreign.append(path)
    return path


def _without_marker(place: Place) -> None:
    (_kept(place, place.ours(place.out)) / MARKER).unlink()


def _inside(place: Place) -> None:
    inner = _kept(place, place.ours(place.out)) / "train"
    inner.mkdir(exist_ok=True)
    place.patch.chdir(inner)


def _mounted(place: Place, path: Path) -> None:
    _kept(place, place.out)
    escaped = str(path).replace(" ", "\\040")
    (place.root / "mountinfo").write_text(f"36 35 98:0 /mnt {escaped} rw,noatime master:1 - ext3 /dev/root rw\n")
    place.patch.setattr(ownership, "_MOUNTS", place.root / "mountinfo")


def _linked_marker(place: Place) -> None:
    place.folder(place.out)
    right = place.root / "right"
    right.mkdir()
    os.close(mark(right, identity(KINDS[place.command], place.out)))
    place.link(place.out / MARKER, right / MARKER)


def _damaged_marker(place: Place) -> None:
    marker = _kept(place, place.ours(place.out)) / MARKER
    marker.write_text(marker.read_text()[:-1])


def _pipe(place: Place, path: Path) -> None:
    os.mkfifo(path)
    place.foreign.append(path)


def _socket(place: Place, path: Path) -> None:
    place.patch.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    place.patch.chdir(place.root)
    place.foreign.append(path)


def _replaced(place: Place, put: Callable[[Place, Path], object]) -> None:
    path = place.ours(place.out) / ("data.json" if place.command == "trained" else "schema.json")
    path.unlink()
    put(place, path)


def _living(place: Place) -> None:
    folder = place.root / ".writing-0123456789ab"
    folder.mkdir()
    place.held.append(mark(folder, identity("workspace", place.out)))
    place.file(folder / "model")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    found = Place(tmp_path, request.param, monkeypatch)
    yield found
    monkeypatch.undo()
    for held in found.held:
        os.close(held)


# The folder of `preprocess` is written as a `PackedWriter` does: what differs is the partial folder alongside it.
TRIED = [(c, s) for c in COMMANDS for s in SITUATIONS if c != "preprocessed" or "partial" in s or "link to" in s]


@pytest.mark.parametrize(("place", "situation"), TRIED, indirect=["place"])
def test_nothing_foreign_is_gone(situation: str, place: Place) -> None:
    SITUATIONS[situation](place)
    before = {path: seen(path) for path in place.foreign}
    with contextlib.suppress(OSError):
        COMMANDS[place.command](place.out)
    assert {path: seen(path) for path in before if os.path.lexists(path)} == before


@pytest.mark.parametrize("place", COMMANDS, indirect=True)
def test_what_is_ours_is_replaced_and_a_link_in_it_goes_alone(place: Place) -> None:
    _replaced(place, lambda q, at: at.symlink_to(q.file(q.root / "victim")))
    before = seen(place.root / "victim")
    place.ours(place.out)
    assert seen(place.root / "victim") == before
    assert not [path for path in place.out.rglob("*") if path.is_symlink()]
    assert sorted(p.name for p in place.root.iterdir() if p.name != "rows.csv") == ["out", "victim"]


@pytest.mark.parametrize("name", ["thesis.tex", "train/notes.md", ".git/HEAD"])
def test_foreign_files_are_named(name: str, tmp_path: Path) -> None:
    packed(tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    known = ".git/" if name.startswith(".git") else name
    with pytest.raises(FileExistsError, match=f"holds what was not written .*'{known}'.*give another output"):
        packed(tmp_path / "out")


def test_an_output_of_an_earlier_release_is_deleted_by_hand(tmp_path: Path) -> None:
    packed(tmp_path / "out")
    (tmp_path / "out" / MARKER).unlink()
    with pytest.raises(FileExistsError, match="not a processed directory of this release .*delete it by hand"):
        packed(tmp_path / "out")


def test_a_file_that_was_listed_later_goes_with_its_processed_directory(tmp_path: Path) -> None:
    packed(tmp_path / "out")
    (tmp_path / "out" / "twin.png").write_text("ours")
    list_file(tmp_path / "out", "twin.png")
    packed(tmp_path / "out")
    assert not (tmp_path / "out" / "twin.png").exists()


def test_a_preprocessor_leaves_vocabularies_of_others_alone(tmp_path: Path) -> None:
    def save() -> None:
        Preprocessor.fit(Schema(categorical=[Categorical("a")]), pl.DataFrame({"a": ["x"]})).save(tmp_path)

    (tmp_path / "vocabulary_words.parquet").write_text("mine")
    save()
    save()
    assert (tmp_path / "vocabulary_words.parquet").read_text() == "mine"
    (tmp_path / "preprocessor.json").write_text('{"format": "another"}')
    with pytest.raises(FileExistsError, match="not a preprocessor of this package"):
        save()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="mounts need root")
def test_a_bound_folder_is_a_mount_point(tmp_path: Path) -> None:
    packed(tmp_path / "out")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "label.npy").write_text("mine")
    (tmp_path / "out" / "train" / "label.npy").unlink()
    program = f"""
import sys
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.schema.schema import Schema
try:
    PackedWriter({str(tmp_path / "out")!r}, Schema(dense=["x"], label="click"), overwrite=True)
except FileExistsError as error:
    sys.exit(9 if "mount point" in str(error) else str(error))
"""
    # Keras is imported late where the command line is.
    command = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$1" && exec "$2" -c "$3" keras_dlrm.cli',
               tmp_path / "victim", tmp_path / "out" / "train", sys.executable, program]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ermitted" in done.stderr or "ermission" in done.stderr:
        pytest.skip("mounts are not permitted here")
    assert done.returncode == 9, done.stderr
    assert (tmp_path / "victim" / "label.npy").read_text() == "mine"

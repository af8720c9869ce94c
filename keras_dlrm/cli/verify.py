"""Command `verify`: compare what was written with its checksums."""

import dataclasses
from pathlib import Path

import click

from keras_dlrm.cli import options as shared

# Of a file's name in the table, so that its lines have no more than 80 columns.
_WIDTH = 42


@click.command(epilog="""\b
Examples:
  keras-dlrm verify my-log                        every byte of a processed directory, however large
  keras-dlrm verify runs/a                        a run: its model, result and predictions
  keras-dlrm verify runs/a/checkpoints            all checkpoints in a folder
  keras-dlrm verify served/clicks/3 --json        a published version
  keras-dlrm verify clicks.onnx                   an ONNX file and the tables' file alongside it
""")
@click.argument("path", type=shared.PathArgument)
@shared.json_option
def command(path: Path, as_json: bool) -> None:
    """Read all of PATH and compare it with its checksums: anything that this package wrote.

    The exit code is 0 where every file is as it was written, and 2 with the name of the first that is not.
    """
    from rich.console import Console

    from keras_dlrm.artifacts import UNCHECKED, verify
    from keras_dlrm.support.terminal import bar, print_table

    with bar(Console(stderr=True), "bytes") as shown:
        task = shown.add_task("verify", total=None, note="")
        verified = verify(path, lambda done, total: shown.update(task, completed=done, total=total))
    # A name that is too long keeps its end, which tells files apart.
    names = [f.name if len(f.name) <= _WIDTH else f"…{f.name[1 - _WIDTH :]}" for f in verified.files]
    rows = [{"file": n, "bytes": file.bytes, "check": file.check} for n, file in zip(names, verified.files, strict=True)]
    print_table(rows, f"{verified.kind}: {path}")
    plain = sum(file.check == UNCHECKED for file in verified.files)
    if plain:
        click.echo(f"{plain} of {len(rows)} files have no checksum: they can be read, but nobody can tell whether they changed.")
    else:
        click.echo("the file is as it was written" if len(rows) == 1 else f"all {len(rows)} files are as they were written")
    shared.print_json(as_json, {"path": str(path), "kind": verified.kind, "files": [dataclasses.asdict(f) for f in verified.files]})

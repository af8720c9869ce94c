"""Command `evaluate`: scores of a saved model on a part of a click log."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.export import TABLES

# Of a slice, in 80 columns; `--json` has all.
_SHOWN = ("slice", "rows", "auc", "auc_error", "logloss", "calibration")


@click.command(epilog="""\b
Examples:
  keras-dlrm evaluate runs/a/model.keras --data my-log
  keras-dlrm evaluate runs/a/model.keras --data my-log --split valid --backend torch --json
  keras-dlrm evaluate runs/a/model.keras --data my-log --slice-by country --group-by user
  keras-dlrm evaluate runs/a/model.keras --data my-log --report tuesday.html
  keras-dlrm evaluate runs/a/model.keras --data my-log --tables int8 --tables int4
""")
@click.argument("model", type=shared.PathArgument)
@click.option("--data", type=shared.PathArgument, required=True, help="Processed directory.")
@click.option("--split", default="test", help="train, valid or test.")
@click.option("--batch-size", type=click.IntRange(1), default=8192)
@click.option("--tables", multiple=True, type=click.Choice(TABLES),
              help="Also score with tables as an export stores them; may be repeated.")  # fmt: skip
@click.option("--prune", type=click.Choice(["untrained"]), help="With --tables: also without rows that training never touched.")
@shared.slice_options
@click.option("--report", type=shared.PathArgument, metavar="FILE.html", help="Also write a report page.")
@shared.import_option
@shared.backend_option
@shared.json_option
def command(
    model: Path, data: Path, split: str, batch_size: int, tables: tuple[str, ...], prune: str | None, imports: tuple[str, ...],
    slice_by: tuple[str, ...], group_by: str | None, report: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Score a saved MODEL (.keras, or the folder of a run) on a part of a click log."""
    if prune is not None and not tables:
        raise ValueError("--prune is for --tables; give those, too.")
    if report is not None and report.exists():
        raise FileExistsError(f"--report {report} exists; give another name.")
    from keras_dlrm import data as data_package

    model = shared.model_file(model)
    log = data_package.open(data)
    part = log.split(split)
    shared.check_slices(log, slice_by, group_by)
    loaded = shared.load_model(model, imports=imports)
    from keras_dlrm.data.preprocessor.unseen import Tally
    from keras_dlrm.data.preprocessor.unseen import as_json as unseen_as_json
    from keras_dlrm.files.durable import write
    from keras_dlrm.schema.same_schema import check_same
    from keras_dlrm.support.terminal import print_table
    from keras_dlrm.training.analysis import affordable, analyze, grouped
    from keras_dlrm.training.by_label import OneLabel, logs_by_label, part_scores
    from keras_dlrm.training.callbacks import predictions
    from keras_dlrm.training.page import page
    from keras_dlrm.training.slicing import Slicer
    from keras_dlrm.training.summary import part_rows

    check_same(f"{model} does not fit {data}", loaded.schema, log.schema, scores=True)
    probabilities = predictions(loaded, part, batch_size)
    scores = part_scores(part, probabilities)
    unseen = Tally()
    for batch, *_ in part.batches(65_536):
        unseen.add_packed(part.schema, batch.get("sparse"))
    result: dict[str, Any] = {"split": split, "rows": len(part), **scores, "unseen": unseen_as_json(unseen.columns())}
    if len(log.schema.labels) > 1:
        result["labels"] = {label: {} for label in log.schema.labels}
    of_labels = {"labels": result["labels"]} if "labels" in result else {}
    print_table(part_rows({split: scores, "rows": {split: len(part)}, **of_labels}, (split,)), f"{loaded.name} ({model})")
    shared.print_unseen(unseen.columns())
    figures = {}
    for label, own, rows in logs_by_label(log, split):
        of, of_label = result["labels"][label] if label else result, f"{label}: " if label else ""
        if slice_by:
            of["slices"] = Slicer(own, split, probabilities[rows]).tables(slice_by)
        for table in of.get("slices", ()):
            title = f"{of_label}{table['column']} by {table['by']}"
            print_table([{key: row[key] for key in _SHOWN} for row in table["rows"]], title)
        if group_by is not None:
            of["grouped_auc"] = grouped(own.split(split), group_by, probabilities[rows])
            print_table([of["grouped_auc"]], f"{of_label}AUC within each value of {group_by}")
        if report is not None:
            shuffled = affordable(log.schema, len(part))
            one = OneLabel(loaded, label) if label else loaded
            more = batch_size, slice_by or None, group_by
            figures[label] = analyze(one, own, split, probabilities[rows], *more, predictions=shuffled)
    if report is not None:
        content = figures[""] if "" in figures else {"labels": figures}
        write(report, page({split: scores, **of_labels}, content, f"{loaded.name} on {log.directory.name}"))
        click.echo(f"report: {report}")
    if tables:
        from keras_dlrm.export import compare_tables

        result["tables"] = compare_tables(loaded, part, tables, prune, batch_size)
        print_table(result["tables"], "tables as they are exported")
    shared.print_json(as_json, result)

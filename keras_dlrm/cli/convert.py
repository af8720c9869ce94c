"""Command `convert`: checkpoints of other libraries to `.keras` files, and back."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.files.durable import check_file, whole
from keras_dlrm.schema.schema import Schema

SYSTEMS = ("torch_dlrm", "torchrec")
# Options by --from and --to.
_USED: dict[tuple[str | None, str | None], set[str]] = {
    ("torch_dlrm", None): {"schema", "hotness", "interaction", "self_interaction", "operation"},
    ("torchrec", None): {"schema", "hotness", "features"},
    (None, "torch_dlrm"): set(),
    (None, "torchrec"): {"features", "table_prefix"},
}


@click.command(epilog="""\b
Examples:
  keras-dlrm convert dlrm.pt --from torch_dlrm --output model.keras
  keras-dlrm convert dcn.pt --from torchrec --schema criteo.yaml --output model.keras
  keras-dlrm convert model.keras --to torchrec --table-prefix t_ --output weights.pt
torch_dlrm is facebookresearch/dlrm (and MLPerf's DLRM), torchrec TorchRec's DLRM and DLRM_DCN (and MLPerf's DLRM-DCNv2).
""")
@click.argument("source", type=shared.PathArgument)
@click.option("--from", "origin", type=click.Choice(SYSTEMS), help="SOURCE is a state_dict (.pt, .pth, .bin, .npz) of this.")
@click.option("--to", "target", type=click.Choice(SYSTEMS), help="SOURCE is a .keras file; write a state_dict of this.")
@click.option("--output", type=shared.PathArgument, required=True, help="File to write.")
@click.option("--schema", type=shared.PathArgument, help="With --from: the columns, .yaml or .json.")
@click.option("--hotness", type=int, help="With --from, without --schema: maximum number of ids of an example in a column.")
@click.option("--interaction", type=click.Choice(["dot", "cat"]), help="With --from torch_dlrm; dot by default.")
@click.option("--self-interaction", is_flag=True, help="With --from torch_dlrm: the reference's --arch-interaction-itself.")
@click.option("--operation", type=click.Choice(["mult", "add", "concat"]),
              help="With --from torch_dlrm: its --qr-operation; mult by default.")  # fmt: skip
@click.option("--features", help="With torchrec: its sparse_feature_names, separated by commas.")
@click.option("--table-prefix", help="With --to torchrec: in front of the tables' names, such as t_.")
@shared.overwrite_option
@shared.backend_option
@shared.json_option
def command(
    source: Path, origin: str | None, target: str | None, output: Path, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Convert another library's checkpoint to a model (.keras), or a model to another library's checkpoint."""
    if (origin is None) == (target is None):
        raise ValueError("convert: give either --from, for another library's checkpoint, or --to, for a .keras file.")
    used = f"--from {origin}" if origin else f"--to {target}"
    shared.refuse_unused(options, _USED[origin, target], f"convert: {{}} is not used with {used}")
    check_file(output, overwrite)
    features = None if options["features"] is None else [name.strip() for name in options["features"].split(",")]
    if origin is not None:
        if output.suffix != ".keras":
            raise ValueError(f"convert: --output {output} must end with .keras.")
        from keras_dlrm import convert
        from keras_dlrm.export import torch_file

        schema = None if options["schema"] is None else Schema.load(options["schema"])
        state = torch_file.load(source)
        if origin == "torchrec":
            model = convert.from_torchrec(state, schema, options["hotness"], features)
        else:
            kinds = options["interaction"] or "dot", options["self_interaction"], options["hotness"]
            model = convert.from_torch_dlrm(state, *kinds, schema, options["operation"] or "mult")
        with whole(output) as written:
            model.save(written)
        tables = model.schema.table_sizes
        rows = sum(tables.values())
        click.echo(f"wrote {output}: {len(tables)} tables, {rows:,} rows, interaction {model.interaction_kind!r}")
        shared.print_json(as_json, {"output": str(output), "tables": tables, "interaction": model.interaction_kind})
        return
    source = shared.model_file(source)
    loaded = shared.load_model(source, compile=False)
    from keras_dlrm import convert
    from keras_dlrm.export import torch_file

    if target == "torchrec":
        state = convert.to_torchrec(loaded, options["table_prefix"] or "", features)
    else:
        state = convert.to_torch_dlrm(loaded)
    torch_file.save(state, output, overwrite)
    click.echo(f"wrote {output}: {len(state)} arrays, {sum(a.size for a in state.values()):,} numbers")
    shared.print_json(as_json, {"output": str(output), "arrays": {key: list(array.shape) for key, array in state.items()}})

"""``spex adapt``: the command, and its result on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import AsJson, LogFile, Quiet, RunFile, Verbose, end, one_of, require, run_config
from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.adaptation.result import Adaptation


def adapt(
    file: RunFile,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the checkpoint that is made.")],
    points: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labelled points or polygons: GeoPackage, GeoJSON, CSV, ...")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="worldcover: labels of the provider's land-cover product, without points or with them."
        ),
    ] = None,
    labels_url: Annotated[
        str | None, typer.Option(metavar="URL", help="STAC catalog of that product; default: the run's or provider's.")
    ] = None,
    class_field: Annotated[str, typer.Option(metavar="NAME", help="Column that names the class.")] = "class",
    legend: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Legend file; default: proposed from the names of classes.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to adapt: built-in name or folder; default: the run's.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="Layer of the points file.")] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only features that satisfy this.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train the whole model after the head; wants a GPU. Can be resumed.")
    ] = False,
    on_cpu: Annotated[bool, typer.Option("--on-cpu", help="With --full: an hour or more on CPUs is fine.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an adapted checkpoint that is there.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Makes a checkpoint for your own legend and region from labelled places, in minutes on a CPU.

    Reads the run's own composites around the points, fits a head on what the model sees there, leaves out spatial
    blocks to measure it beside a random forest, and writes weights, legend and a card. Map with it: spex run FILE
    --checkpoint DIR.

    Example: spex adapt run.yaml --points survey.gpkg --class-field landuse --output models/mine
    """
    one_of(verbose, quiet)
    require(file, "run file")
    if points is not None:
        require(points, "points file")
    elif labels is None:
        raise BadInputError("there are no labels: give --points FILE, --labels worldcover, or both")
    if labels not in (None, "worldcover"):
        raise BadInputError(
            f"--labels {labels}: there is worldcover alone; a map of your own goes into --points as points"
        )
    if legend is not None:
        require(legend, "legend")
    config = run_config(file, checkpoint=base)
    from pipeline.adaptation.adapt import AdaptOptions
    from pipeline.adaptation.adapt import adapt as run_adapt
    from pipeline.commands.console import progress_shown, results_console

    options = AdaptOptions(points, class_field, output, legend, layer, where, replace, labels is not None, labels_url)
    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = run_adapt(config, options, progress)
    if not as_json:
        show_adaptation(result, file, results_console())
    end({**result.to_dict(), "seconds": round(result.seconds, 1)}, as_json, 0)


def show_adaptation(result: Adaptation, file: Path, console: Console) -> None:
    """Figures side by side, class by class, then what to know before the map is made."""
    from rich.table import Table

    from pipeline.adaptation.card import table_rows, warnings_of
    from pipeline.machine.progress import duration_text

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    checked = result.validation
    if checked is not None:
        table = Table(f"blocks of {result.block_m:g} m left out", box=None)
        for title in ("overall", "mean recall", "mean IoU"):
            table.add_column(title, justify="right")
        for title, f in table_rows(checked):
            table.add_row(title, f"{f.overall:.3f}", f"{f.mean_recall:.3f}", f"{f.mean_iou:.3f}")
        console.print(table)
        line("")
        classes = Table("rows: survey; columns: map", box=None)
        for entry in result.legend:
            classes.add_column(str(entry.code), justify="right")
        for entry, row in zip(result.legend, checked.confusion.tolist(), strict=True):
            classes.add_row(f"{entry.code} {entry.name}".replace("[", "\\["), *map(str, row))
        console.print(classes)
        line("")
        steps = ", ".join(f"{accuracy:.3f} with {count}" for count, accuracy in checked.curve)
        gain = checked.gain_of_100_more
        more = "" if gain is None else f"; 100 pixels more would bring about {100 * gain:.1f} points"
        line(f"Learning curve: {steps}{more}. Calibration error {checked.calibration_error:.3f}.")
    for text in warnings_of(result):
        line(f"! {text}")
    for reason, count in result.left_out.items():
        line(f"not used: {count} {reason}")
    line(f"{result.output}: head {result.chosen!r}, {sum(result.samples.values())} pixels, "
         f"{duration_text(result.seconds)}; next: spex run {file} --checkpoint {result.output}")  # fmt: skip

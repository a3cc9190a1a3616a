"""Commands that ask about a finished map: ``spex explain`` and ``spex ask``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import AsJson, LogFile, Quiet, Verbose, end, one_of, require
from pipeline.errors import BadInputError

EXIT_DOUBTFUL = 3
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run whose store was kept.")]


def explain(
    folder: Folder,
    at: Annotated[str, typer.Option("--at", metavar="LON,LAT", help="The point, degrees, longitude first.")],
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it, as a PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Says why the map has the class that it has at a point.

    Odds against the runner-up, the spectrum beside usual ones, what deleting parts of the image does to the odds, and
    the scenes that saw it. Reads the scenes there again. Exit code 3 where they are gone.
    Example: spex explain out --at 11.03,46.51
    """
    lon, lat = point_of(at)
    require(folder, "output folder")
    if plot is not None and plot.suffix.lower() != ".png":
        raise BadInputError(f"--plot {plot}: the picture is a PNG; give a name that ends in .png")
    from pipeline.explain.kept_run import open_kept_run
    from pipeline.explain.point import explain_point
    from pipeline.explain.point_plot import write_point_plot
    from pipeline.explain.point_words import point_document, point_text

    found = explain_point(open_kept_run(folder), lon, lat)
    if not as_json:
        print(point_text(found))
    if plot is not None:
        write_point_plot(found, plot)
    end(point_document(found), as_json, 0 if found.recomputed else EXIT_DOUBTFUL)


def ask(
    folder: Folder,
    phrases: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS...", help='Phrases, each in quotes: "reed along the river".')
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="ID", help="Only in this sub-region.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the answer; default: asked/... below DIR.")
    ] = None,
    legend: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A legend of words instead: every pixel becomes one of them.")
    ] = None,
    min_pixels: Annotated[int, typer.Option(min=1, help="Smaller patches get no polygon.")] = 4,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Asks the model of a finished map for something in free words: masks, polygons, and whether it knows the words.

    Reads the scenes of the map again. Each phrase competes with the classes of the map, but not with the one that the
    model takes it for. Exit code 3 where the words are unlike any class that the model was taught, or scenes are gone.
    Example: spex ask out "reed along the river" "open water"
    """
    one_of(verbose, quiet)
    require(folder, "output folder")
    if (legend is None) == (not phrases):
        raise BadInputError("give either phrases or --legend FILE")
    if legend is not None:
        require(legend, "legend")
    from pipeline.commands.console import progress_shown
    from pipeline.explain.kept_run import open_kept_run
    from pipeline.runs.ask import answer_text
    from pipeline.runs.ask import ask as ask_map
    from spex_core.legend import Legend

    words = None if legend is None else Legend.from_yaml(legend)
    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        answer = ask_map(
            open_kept_run(folder),
            phrases or (),
            progress,
            region_id=region,
            output=output,
            words=words,
            min_pixels=min_pixels,
        )
    if not as_json:
        print(answer_text(answer))
    end(answer.to_dict(), as_json, answer.exit_code)


def point_of(text: str) -> tuple[float, float]:
    """Longitude and latitude of ``11.03,46.51``.

    Raises:
        BadInputError: It is none.
    """
    numbers = re.fullmatch(
        r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*[, ]\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", text, re.IGNORECASE
    )
    try:
        if numbers is None:
            raise ValueError
        return float(numbers[1]), float(numbers[2])
    except ValueError:
        raise BadInputError(f"--at {text!r} is not LON,LAT in degrees, such as 11.03,46.51") from None

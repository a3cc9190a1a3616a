"""Commands that ask about a finished map: ``spex explain`` and ``spex ask``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import AsJson, end, require
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

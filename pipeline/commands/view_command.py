"""The command ``spex view``: the maps of a folder in the browser of this machine."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import require

if TYPE_CHECKING:
    from pipeline.outputs.view_server import Why


def view(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of one or more runs.")],
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="N", help="Port of 127.0.0.1; 0: any; default: 8050 if free."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Shows the maps of an output folder on one page: classes over the picture, confidence, periods, sub-regions.

    Answers browsers of this machine only, until Ctrl-C. Where runs were kept, a point's class is explained, too. The
    same page is in DIR/view for any web space. Example: spex view out
    """
    require(folder, "output folder")
    from pipeline.outputs.view_server import open_server

    server = open_server(folder, port, _why(folder))
    print(server.address, flush=True)
    print("for browsers of this machine; Ctrl-C ends it", file=sys.stderr)
    try:
        if not no_browser and _has_screen():
            webbrowser.open(server.address)
        server.serve_forever()
    finally:
        server.server_close()


def _why(folder: Path) -> Why | None:
    """Reasons of a point, where a run was kept; its libraries are loaded when somebody asks."""
    if not any(folder.glob(".spex/*/plan.json")):
        return None

    def why(run_id: str, lon: float, lat: float) -> str:
        from pipeline.explain.kept_run import open_kept_run
        from pipeline.explain.point import explain_point
        from pipeline.explain.point_words import point_text

        return point_text(explain_point(open_kept_run(folder, run_id), lon, lat))

    return why


def _has_screen() -> bool:
    """Whether a browser would come up in a window: one in the terminal would take the terminal away."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))

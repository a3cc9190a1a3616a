"""``landcover.qml``: the style that QGIS takes with a raster of the same name, so that it lists the legend's classes
and not 256 rows."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

from pipeline.machine.atomic_files import renew_bytes
from spex_core.legend import Legend


def write_style(path: Path, legend: Legend) -> Path:
    """Writes the style, atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    entries = "".join(
        f'          <paletteEntry value="{c.code}" color={quoteattr(c.color.lower())} alpha="255" '
        f"label={quoteattr(c.name)}/>\n"
        for c in legend
    )
    text = (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22.0" styleCategories="Symbology">\n'
        "  <pipe>\n"
        '    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        "      <rasterTransparency/>\n"
        "      <colorPalette>\n"
        f"{entries}"
        "      </colorPalette>\n"
        "    </rasterrenderer>\n"
        '    <rasterresampler zoomedInResampler="nearest" zoomedOutResampler="nearest"/>\n'
        "  </pipe>\n"
        "</qgis>\n"
    )
    renew_bytes(path, text.encode())
    return path

"""Run by a Python that has QGIS: prints as JSON what it makes of a class map with its style, and of its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qgis.core import (  # type: ignore[import-not-found, unused-ignore]
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
)
from qgis.PyQt.QtCore import QSize  # type: ignore[import-not-found, unused-ignore]


def look(folder: Path) -> dict[str, Any]:
    """Rows of the legend, and colours of the drawn map."""
    layer = QgsRasterLayer(str(folder / "landcover.tif"), "landcover")
    message, loaded = layer.loadNamedStyle(str(folder / "landcover.qml"))
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(layer.width(), layer.height()))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    pixels = [[image.pixelColor(x, y).name() for x in range(image.width())] for y in range(image.height())]
    return {
        "valid": layer.isValid(),
        "style": [message, loaded],
        "crs": layer.crs().authid(),
        "rows": [[c.value, c.label, c.color.name()] for c in layer.renderer().classes()],
        "legend": [label for label, _ in layer.renderer().legendSymbologyItems()],
        "pixels": pixels,
    }


application = QgsApplication([], False)
application.initQgis()
print(json.dumps(look(Path(sys.argv[1]))), flush=True)

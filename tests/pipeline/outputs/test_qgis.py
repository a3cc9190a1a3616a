"""QGIS, where it is installed, shows nine named classes in the legend's colours. ``apt-get install python3-qgis``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.outputs.cog_writer import RasterForm, write_cog
from pipeline.outputs.qgis_style import write_style
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
SCRIPT = Path(__file__).with_name("look_in_qgis.py")
SYSTEM = os.pathsep.join(("/usr/bin", "/usr/local/bin", os.environ.get("PATH", "")))


@cache
def python_with_qgis() -> str | None:
    """QGIS's bindings belong to the Python of the system, or to this one."""
    for python in filter(None, (shutil.which("python3", path=SYSTEM), sys.executable)):
        asked = subprocess.run([python, "-I", "-c", "import qgis.core"], capture_output=True, timeout=60)
        if asked.returncode == 0:
            return python
    return None


def test_qgis_shows_nine_named_rows_and_the_colours_of_the_legend(tmp_path: Path) -> None:
    if (python := python_with_qgis()) is None:
        pytest.skip("no QGIS")
    codes = np.asarray([LEGEND.nodata, *LEGEND.codes], np.uint8).repeat(8)[None].repeat(40, axis=0)
    transform = rasterio.Affine(10, 0, 640_000, 0, -10, 5_150_000)
    form = RasterForm(*codes.shape, 32632, transform, "uint8", 0, "mode", colormap=LEGEND.colormap())
    write_cog(tmp_path / "landcover.tif", form, lambda target: target.write(codes, 1))
    write_style(tmp_path / "landcover.qml", LEGEND)
    shown = subprocess.run(
        [python, "-I", str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert shown.stdout.startswith("{"), shown.stderr
    found = json.loads(shown.stdout.splitlines()[0])
    expected = [[c.code, c.name, "#{:02x}{:02x}{:02x}".format(*c.rgb)] for c in LEGEND]
    assert found["valid"]
    assert found["style"][1], found["style"]
    assert found["crs"] == "EPSG:32632"
    assert found["rows"] == expected
    assert found["legend"] == [c.name for c in LEGEND]
    assert [found["pixels"][20][8 * i + 4] for i in range(1, 10)] == [color for _, _, color in expected]

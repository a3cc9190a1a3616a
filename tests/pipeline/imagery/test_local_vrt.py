"""VRTs: bands of local files within the roots, and none of what else a VRT can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from pipeline.errors import ReadError
from pipeline.imagery.file_reader import AssetReader
from pipeline.sources.hrefs import AssetDoor
from tests.pipeline.imagery.test_file_reader import grid, noise, reader
from tests.pipeline.loopback_server import file_answer, serve
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_raster

BANDS = np.stack([noise(32, 32, seed=i) for i in range(3)])
HEAD = (
    f'<VRTDataset rasterXSize="32" rasterYSize="32"><SRS>EPSG:{EPSG}</SRS>'
    f"<GeoTransform>{LEFT},10,0,{TOP},0,-10</GeoTransform>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    with rasterio.open(
        root / "scene.tif", "w", driver="GTiff", width=32, height=32, count=3, dtype="uint16", crs=EPSG, nodata=0,
        transform=grid(32, 32).transform,
    ) as ds:  # fmt: skip
        ds.write(BANDS)
    write_raster(tmp_path / "secret.tif", noise(32, 32, seed=9), left=LEFT, top=TOP, gsd=10)
    return root


def vrt(source: str, band: int = 2, attributes: str = 'relativeToVRT="1"', kind: str = "SimpleSource") -> str:
    return (
        f'{HEAD}<VRTRasterBand dataType="UInt16" band="1"><{kind}><SourceFilename {attributes}>{source}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></{kind}></VRTRasterBand></VRTDataset>"
    )


def read(path: Path, roots: tuple[str, ...] | None = None) -> Any:
    made: AssetReader = reader(path, grid(32, 32))
    made.door = None if roots is None else AssetDoor(("file",), roots, (), True)
    return made.read(Window(0, 0, 32, 32))


@pytest.mark.parametrize("kind", ["SimpleSource", "ComplexSource"])
def test_one_band_of_a_file_is_an_asset(folder: Path, kind: str) -> None:
    for text in (vrt("scene.tif", kind=kind), vrt(f"{folder}/scene.tif", attributes="", kind=kind)):
        (folder / "b.vrt").write_text(text)
        for roots in (None, (), (str(folder),)):
            np.testing.assert_array_equal(read(folder / "b.vrt", roots), BANDS[1])


def test_what_gdal_itself_writes_is_read(folder: Path) -> None:
    with rasterio.open(folder / "scene.tif") as scene, rasterio.open(folder / "one.tif", "w", **{
        **scene.profile, "count": 1}) as one:  # fmt: skip
        one.write(scene.read(3), 1)
    rasterio.shutil.copy(folder / "one.tif", folder / "b.vrt", driver="VRT")
    np.testing.assert_array_equal(read(folder / "b.vrt"), BANDS[2])


def test_files_of_a_vrt_may_lie_elsewhere_below_the_roots(folder: Path) -> None:
    (folder / "bands").mkdir()
    (folder / "bands" / "b.vrt").write_text(vrt("../scene.tif"))
    np.testing.assert_array_equal(read(folder / "bands" / "b.vrt", (str(folder),)), BANDS[1])
    with pytest.raises(ReadError, match="outside its own folder"):
        read(folder / "bands" / "b.vrt")


@pytest.mark.parametrize("with_roots", [True, False])
@pytest.mark.parametrize(
    "source",
    [
        *("../secret.tif", "{folder}/../secret.tif", "link.tif", "/etc/passwd", "/vsicurl/{url}/secret.tif"),
        *("{url}/secret.tif", "/vsimem/x", "nested.vrt", "GTIFF_DIR:1:{folder}/scene.tif", "text.tif", "absent.tif"),
        *("&lt;VRTDataset/&gt;", "file:///etc/passwd", "//host/x.tif", "vrt://{folder}/scene.tif", "", "."),
    ],
)
def test_a_vrt_names_no_file_outside_no_host_and_no_other_format(folder: Path, source: str, with_roots: bool) -> None:
    (folder / "link.tif").symlink_to(folder.parent / "secret.tif")
    (folder / "nested.vrt").write_text(vrt("scene.tif"))
    (folder / "text.tif").write_text("root:x:0:0")
    with serve(lambda r: file_answer(folder.parent, r)) as server:
        for attributes in ('relativeToVRT="1"', 'relativeToVRT="0"', ""):
            (folder / "b.vrt").write_text(vrt(source.format(folder=folder, url=server.url), attributes=attributes))
            with pytest.raises(ReadError, match=r"b\.vrt cannot be read: a VRT that names"):
                read(folder / "b.vrt", (str(folder),) if with_roots else None)
        assert server.requests == []


@pytest.mark.parametrize(
    "text",
    [
        HEAD.replace("<VRTDataset ", '<VRTDataset subClass="VRTWarpedDataset" ') + "</VRTDataset>",
        HEAD.replace("<VRTDataset ", '<VRTDataset subClass="VRTProcessedDataset" ') + "<Input/></VRTDataset>",
        HEAD + "<GDALWarpOptions><SourceDataset>/etc/passwd</SourceDataset></GDALWarpOptions></VRTDataset>",
        HEAD + "<OverviewList>2</OverviewList><MaskBand/></VRTDataset>",
        HEAD + '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        "<SourceFilename>/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>",
        HEAD + '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>f'
        "</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage></VRTRasterBand></VRTDataset>",
        HEAD + '<VRTRasterBand dataType="Byte" band="1"><KernelFilteredSource/></VRTRasterBand></VRTDataset>',
        HEAD + '<VRTRasterBand dataType="Byte" band="1"><Overview><SourceFilename>/etc/passwd</SourceFilename>'
        "</Overview></VRTRasterBand></VRTDataset>",
        vrt("scene.tif").replace("<SourceBand>", "<OpenOptions><OOI key='x'>y</OOI></OpenOptions><SourceBand>"),
        vrt("scene.tif").replace("SourceFilename", "sourcefilename"),
        '<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>' + vrt("&y;"),
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y "scene.tif">]>' + vrt("&y;"),
        vrt("<![CDATA[/etc/passwd]]>"),
        vrt("scene.tif")[:-20],
        '<?xml version="1.0"?><GDAL_WMS/>',
        '<?xml version="1.0" encoding="nonsense"?>' + vrt("scene.tif"),
        HEAD + "<Metadata>" * 5000,
        vrt("scene.tif") + " " * (2 << 20),
    ],
)  # fmt: skip
def test_a_vrt_that_does_more_is_refused_by_name(folder: Path, text: str) -> None:
    (folder / "b.vrt").write_text(text)
    with pytest.raises(ReadError, match=r"b\.vrt cannot be read"):
        read(folder / "b.vrt")

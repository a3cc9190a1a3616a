"""Plain VRTs: the bands of local files, one after the other, and nothing else that GDAL's VRT can do.

A VRT is a program: it names files, addresses and formats, warps, derives and runs code. Only what gives one band of a
multi-band file its own asset is read, and the text that GDAL gets is written here, from what was understood.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import HrefError, ReadError
from pipeline.sources.hrefs import check_plain, is_inside, is_url, local_path

MAX_VRT_BYTES = 1024 * 1024

_CHILDREN: dict[str, frozenset[str]] = {
    "VRTDataset": frozenset({"SRS", "GeoTransform", "VRTRasterBand"}),
    "VRTRasterBand": frozenset({"NoDataValue", "Description", "ColorInterp", "SimpleSource", "ComplexSource"}),
    "SimpleSource": frozenset({"SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect"}),
    "ComplexSource": frozenset({"SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA"}),
}
_ATTRIBUTES: dict[str, frozenset[str]] = {
    "VRTDataset": frozenset({"rasterXSize", "rasterYSize"}),
    "VRTRasterBand": frozenset({"dataType", "band", "blockXSize", "blockYSize"}),
    "SRS": frozenset({"dataAxisToSRSAxisMapping", "coordinateEpoch"}),
    "SourceFilename": frozenset({"relativeToVRT", "shared"}),
    "SourceProperties": frozenset({"RasterXSize", "RasterYSize", "DataType", "BlockXSize", "BlockYSize"}),
    "SrcRect": frozenset({"xOff", "yOff", "xSize", "ySize"}),
    "DstRect": frozenset({"xOff", "yOff", "xSize", "ySize"}),
}
_LEFT_OUT = frozenset(
    {"Metadata", "OverviewList", "Histograms", "Offset", "Scale", "UnitType", "BlockXSize", "BlockYSize"}
)
"""Without meaning for digital numbers."""


def looks_like_vrt(head: bytes) -> bool:
    """True for a file that begins as a VRT."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"<VRTDataset", b"<?xml"))


def plain_vrt(path: Path, roots: Sequence[str], is_raster: Callable[[Path], bool]) -> str:
    """The text of a VRT with absolute file names, as GDAL opens it.

    Args:
        path: The VRT.
        roots: Folders that hold the files it names, if the run file names any; else they lie beside or below it.
        is_raster: True for a file of a format that is read.

    Raises:
        ReadError: It does more than to name bands of such files; says what.
    """
    try:
        if path.stat().st_size > MAX_VRT_BYTES:
            raise ReadError(f"{path} cannot be read: a VRT of more than {MAX_VRT_BYTES >> 20} MiB")
        text = path.read_bytes()
        if b"<!" in text.replace(b"<!--", b""):  # no DTD, hence no entities
            raise ReadError(f"{path} cannot be read: a VRT with a document type or CDATA")
        root = ET.fromstring(text)
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ReadError(f"{path} cannot be read: not well-formed XML ({error})") from None
    if root.tag != "VRTDataset":
        raise ReadError(f"{path} cannot be read: XML, but not a VRT")
    plain = _copied(root, path)
    for name in plain.iter("SourceFilename"):
        name.text = str(_source(name, path, roots, is_raster))
        name.attrib = {"relativeToVRT": "0"}
    return ET.tostring(plain, encoding="unicode")


def _copied(element: ET.Element, path: Path) -> ET.Element:
    """The element with what is understood of it."""
    allowed = _CHILDREN.get(element.tag, frozenset())
    foreign = sorted(set(element.attrib) - _ATTRIBUTES.get(element.tag, frozenset()))
    foreign += sorted({child.tag for child in element} - allowed - _LEFT_OUT)
    if foreign:
        raise ReadError(
            f"{path} cannot be read: a VRT whose {element.tag} has {', '.join(foreign)}; only VRTs that name bands of "
            "local files are read (gdalbuildvrt -b, gdal_translate -of VRT -b)"
        )
    out = ET.Element(element.tag, element.attrib)
    if not allowed:
        out.text = element.text
    out.extend([_copied(child, path) for child in element if child.tag in allowed])
    return out


def _source(name: ET.Element, path: Path, roots: Sequence[str], is_raster: Callable[[Path], bool]) -> Path:
    text = name.text or ""
    relative = name.get("relativeToVRT", "0") == "1"
    try:
        check_plain(text)
        if is_url(text) or local_path(text) is None or (not relative and not text.startswith("/")):
            raise HrefError("it is not a path")
        source = (path.parent / text if relative else Path(text)).resolve()
    except (HrefError, OSError, RuntimeError, ValueError) as error:
        raise ReadError(f"{path} cannot be read: a VRT that names {text[:200]!r}: {error}") from None
    inside = is_inside(source, roots) if roots else source.is_relative_to(path.parent.resolve())
    if not inside:
        where = "source.allowed_roots" if roots else "its own folder"
        raise ReadError(f"{path} cannot be read: a VRT that names {text[:200]!r}, which is outside {where}")
    if not is_raster(source):
        raise ReadError(f"{path} cannot be read: a VRT that names {text[:200]!r}, no GeoTIFF or JPEG 2000 file")
    return source

"""The picture of a map: a small indexed PNG in the legend's colours, nodata transparent."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.errors import RasterioError

from pipeline.errors import ReadError
from pipeline.machine.atomic_files import replacing
from spex_core.legend import Legend

MAX_SIDE_PX = 1024


def map_codes(landcover: Path, max_side_px: int = MAX_SIDE_PX) -> NDArray[np.uint8]:
    """A reduced class map, uint8 ``[h, w]``, long side at most ``max_side_px``.

    Read through the file's overviews, so that memory and time follow the picture; values are codes of the map, never
    mixtures of two.

    Raises:
        ReadError: The file cannot be read.
    """
    try:
        with rasterio.open(landcover) as source:
            factor = max(source.width, source.height) / max_side_px
            shape = (source.height, source.width)
            if factor > 1:
                shape = (max(round(source.height / factor), 1), max(round(source.width / factor), 1))
            codes: NDArray[np.uint8] = source.read(1, out_shape=shape)
            return codes
    except RasterioError as error:
        raise ReadError(f"the map {landcover} cannot be read for its picture: {error}") from None


def map_image(codes: NDArray[np.uint8], legend: Legend) -> Image.Image:
    """Class codes, uint8 ``[h, w]`` → indexed image with the legend's palette; nodata and unknown codes transparent."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for c in legend:
        palette[c.code] = c.rgb
    known = np.isin(codes, legend.codes)
    image = Image.fromarray(np.where(known, codes, legend.nodata).astype(np.uint8), mode="P")
    image.putpalette(palette.tobytes())
    image.info["transparency"] = legend.nodata
    return image


def legend_strip(legend: Legend, codes: Collection[int], width_px: int, size_px: int = 13) -> Image.Image:
    """The legend as an RGBA strip of rows of swatches; only the classes in ``codes``."""
    font = ImageFont.load_default(size=size_px)
    gap, swatch, row_height = size_px, size_px, round(size_px * 1.9)
    placed: list[tuple[int, int, str, str]] = []
    x, y = gap // 2, (row_height - swatch) // 2
    for c in legend:
        if c.code not in codes:
            continue
        needed = swatch + gap // 2 + round(font.getlength(c.name)) + gap
        if placed and x + needed > width_px:
            x, y = gap // 2, y + row_height
        placed.append((x, y, c.color, c.name))
        x += needed
    strip = Image.new("RGBA", (width_px, y + row_height - (row_height - swatch) // 2), (255, 255, 255, 255))
    draw = ImageDraw.Draw(strip)
    for x, y, color, name in placed:
        draw.rectangle((x, y, x + swatch, y + swatch), fill=color, outline="#808080")
        draw.text((x + swatch + gap // 2, y + swatch / 2), name, fill="#202020", font=font, anchor="lm")
    return strip


def write_thumbnail(
    landcover: Path, path: Path, legend: Legend, *, max_side_px: int = MAX_SIDE_PX, with_legend: bool = False
) -> Path:
    """Writes the PNG of a map file, atomically; ``with_legend`` adds a strip of the classes that occur below it.

    Raises:
        ReadError: The map cannot be read.
        OutputError: The PNG cannot be written.
    """
    codes = map_codes(landcover, max_side_px)
    image = map_image(codes, legend)
    if with_legend:
        strip = legend_strip(legend, set(np.unique(codes).tolist()), max(image.width, 240))
        sheet = Image.new("RGBA", (strip.width, image.height + strip.height), (255, 255, 255, 255))
        picture = image.convert("RGBA")
        sheet.paste(picture, ((sheet.width - image.width) // 2, 0), picture)
        sheet.paste(strip, (0, image.height))
        image = sheet
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(image))
    return path


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    transparent = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    image.save(buffer, format="PNG", **transparent)  # optimize=True: six times slower for 3 % fewer bytes
    return buffer.getvalue()

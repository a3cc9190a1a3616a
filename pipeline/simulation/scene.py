"""One acquisition of a world: ground at a date, sky, sensor, digital numbers and scene classification, per block.

Blocks of any granule agree wherever they overlap, because everything is a function of absolute position and seeds.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from pipeline.simulation.biomes import Biome
from pipeline.simulation.clouds import SCL_NODATA, Clouds, cover_with_clouds, scene_classification
from pipeline.simulation.landscape import PIXEL_M, Cover, Landscape
from pipeline.simulation.noise import FloatArray
from pipeline.simulation.sensor import PAD_PX, native_bands
from pipeline.simulation.spectra import add_haze, material_table
from pipeline.simulation.surface import Light, surface_reflectance
from spex_core.bands import BANDS

QUANTIFICATION = 10_000
OFFSET_DN = 1000
"""Added to every digital number since processing baseline 04.00 (minus BOA_ADD_OFFSET)."""

FloatPositions = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A block of the 10 m lattice of a UTM zone; ``left`` and ``top`` are metres, multiples of 20, of the corner."""

    epsg: int
    left: int
    top: int
    height: int
    """Rows, 10 m pixels, even."""
    width: int

    def positions(self, pad_px: int = 0) -> tuple[FloatPositions, FloatPositions]:
        """Pixel centres with ``pad_px`` more on each side: eastings ``[1, W]``, northings ``[H, 1]``."""
        x = self.left + (np.arange(-pad_px, self.width + pad_px, dtype=np.float64)[None, :] + 0.5) * PIXEL_M
        y = self.top - (np.arange(-pad_px, self.height + pad_px, dtype=np.float64)[:, None] + 0.5) * PIXEL_M
        return x, y

    @property
    def lattice(self) -> tuple[int, int]:
        """Absolute row and column of the first pixel."""
        return -self.top // int(PIXEL_M), self.left // int(PIXEL_M)


@dataclass(frozen=True)
class World:
    """A landscape with its materials, laid out in the metres of one UTM zone and seen from any other."""

    seed: int
    biome: Biome
    epsg: int = 32632
    """Home zone; in other zones positions are brought back to it, so that the land goes on across zone borders."""
    spread: float = 0.5
    """How far materials differ from the library, see :func:`~pipeline.simulation.spectra.material_table`."""

    @cached_property
    def materials(self) -> FloatArray:
        """Reflectance of the world's materials, ``[materials, 10]``."""
        return material_table(np.random.default_rng([self.seed, 77]), self.spread)

    def positions(self, frame: Frame, pad_px: int) -> tuple[FloatPositions, FloatPositions]:
        """Home-zone positions of a frame's pixels."""
        x, y = frame.positions(pad_px)
        if frame.epsg == self.epsg:
            return x, y
        to_home = Transformer.from_crs(frame.epsg, self.epsg, always_xy=True)
        every_x, every_y = (np.array(a) for a in np.broadcast_arrays(x, y))
        home_x, home_y = to_home.transform(every_x, every_y)
        return home_x, home_y

    def cover(self, frame: Frame, pad_px: int = 0) -> Cover:
        """The ground of a frame and ``pad_px`` more on each side."""
        return Landscape(self.seed, self.biome).cover(*self.positions(frame, pad_px + 1))

    def classes(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """The true map: WorldCover codes, uint8 ``[H, W]``."""
        return self.cover(frame).code


@dataclass(frozen=True)
class Acquisition:
    """When and how a scene is taken."""

    datetime: dt.datetime
    clouds: Clouds
    sun_azimuth_deg: float = 155.0
    sun_elevation_deg: float = 55.0
    haze: float = 0.006
    baseline: str = "05.10"
    """Processing baseline; from 04.00 on, products carry the radiometric offset."""
    satellite: str = "S2B"
    orbit: int = 65
    swath_edge: tuple[float, float, float] | None = None
    """(easting, northing, metres east per metre north): everything east of this line of the home zone is nodata."""

    @property
    def season(self) -> float:
        """Year phase, northern hemisphere: 0 on 5 January, 0.5 at the beginning of July."""
        return ((self.datetime.timetuple().tm_yday - 5) / 365.25) % 1.0

    @property
    def has_offset(self) -> bool:
        """Whether products of this baseline carry the offset of 1000."""
        return self.baseline >= "04.00"

    @property
    def noise_seed(self) -> int:
        """Identity of the sensor noise: the same for all granules of one pass."""
        return int(self.datetime.timestamp()) // 60


@dataclass(frozen=True)
class SceneBlock:
    """What one acquisition holds of one frame."""

    bands: dict[str, npt.NDArray[np.uint16]]
    """Band → DN at native resolution: ``[H, W]`` or ``[H / 2, W / 2]``; 0 is nodata."""
    scl: npt.NDArray[np.uint8]
    """Scene classification, ``[H / 2, W / 2]``."""


def acquire(world: World, acquisition: Acquisition, frame: Frame, cover: Cover, offset_dn: int) -> SceneBlock:
    """Draws one block of one scene.

    Args:
        world: The land.
        acquisition: Date, sun and sky.
        frame: Which block; corner on the 20 m lattice, even size.
        cover: ``world.cover(frame, PAD_PX)``, shared by all dates.
        offset_dn: Added to the digital numbers of valid pixels (0 or ``OFFSET_DN``).
    """
    x, y = world.positions(frame, PAD_PX)
    north = 1.0 if (frame.epsg // 100) % 10 == 6 else -1.0
    season = acquisition.season if north > 0 else (acquisition.season + 0.5) % 1.0
    light = Light(
        acquisition.sun_azimuth_deg if north > 0 else 180.0 - acquisition.sun_azimuth_deg,
        acquisition.sun_elevation_deg,
    )
    ground = surface_reflectance(cover, world.biome, world.materials, season, light)
    cloud, shadow, cirrus = acquisition.clouds.opacities(x, y, light.sun_azimuth_deg, light.sun_elevation_deg)
    seen = cover_with_clouds(ground, cloud, shadow, cirrus, cover.mottle)
    seen = add_haze(seen, acquisition.haze)

    row0, col0 = frame.lattice
    inside = _inside_swath(acquisition, x, y)
    inside20 = inside[0::2, 0::2] & inside[1::2, 0::2] & inside[0::2, 1::2] & inside[1::2, 1::2]
    inside = np.repeat(np.repeat(inside20, 2, axis=0), 2, axis=1)
    natives = native_bands(seen, row0, col0, acquisition.noise_seed)
    bands = {}
    for band, image in zip(BANDS, natives, strict=True):
        valid = inside if band.gsd_m == 10 else inside20
        image = image if band.gsd_m == 10 else np.ascontiguousarray(image[2:-2, 2:-2])
        dn = np.clip(np.rint(image * np.float32(QUANTIFICATION)) + np.float32(offset_dn), 1, 65_535)
        bands[band.name] = np.where(valid, dn, 0).astype(np.uint16)

    pad = slice(PAD_PX, -PAD_PX)
    scl = scene_classification(
        np.stack([_mean20(layer[pad, pad]) for layer in ground]),
        *(_mean20(layer[pad, pad]) for layer in (cloud, shadow, cirrus)),
    )
    return SceneBlock(bands, np.where(inside20, scl, np.uint8(SCL_NODATA)))


def _mean20(image: FloatArray) -> FloatArray:
    rows = (image[0::2] + image[1::2]) * np.float32(0.5)
    mean: FloatArray = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.5)
    return mean


def _inside_swath(acquisition: Acquisition, x: FloatPositions, y: FloatPositions) -> npt.NDArray[np.bool_]:
    pad = slice(PAD_PX, -PAD_PX)
    x = x[:, pad] if x.shape[0] == 1 else x[pad, pad]
    y = y[pad] if y.shape[1] == 1 else y[pad, pad]
    if acquisition.swath_edge is None:
        return np.ones(np.broadcast_shapes(x.shape, y.shape), np.bool_)
    easting, northing, slant = acquisition.swath_edge
    return x <= easting + slant * (y - northing)

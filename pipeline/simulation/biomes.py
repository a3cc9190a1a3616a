"""Climates and land uses: how common forests, fields, towns, lakes and snow are in a world."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Biome:
    """How common things are. Levels are in standard deviations of the field they are compared with."""

    name: str
    forest: float = -0.15
    """Higher: more forest."""
    shrub: float = -0.5
    """Higher: more of the open land is shrub rather than grass."""
    farming: float = 0.6
    bare: float = -1.7
    lakes: float = -1.4
    sea: float = -9.0
    wetland: float = 0.5
    towns: float = 0.4
    """Share of town sites (one per 3 km square) that hold a town."""
    relief_m: float = 250.0
    snowline_m: float = 9000.0
    """Height above which snow lies all year."""
    treeline_m: float = 8000.0
    conifer: float = 0.3
    """Share of forest stands that are conifers."""
    evergreen: bool = False
    """Broad leaves stay all year (tropics, Mediterranean)."""
    dryness: float = 0.1
    """0 lush .. 1 parched: open vegetation turns to dry stems and soil."""
    sandy: float = 0.2
    """Share of bright and red soils."""
    hedges: float = 0.35
    """Share of estates with hedges between parcels."""
    pasture: float = 0.25
    """Share of parcels that are permanent grass."""
    parcel_m: float = 150.0
    river_m: float = 60.0
    """Width of the main rivers."""
    quarries: float = 0.10
    """Share of sites (one per 2.1 km square) with bare ground whatever the soil: quarry, landslip, building site."""
    beach: float = 0.0
    """Higher: more of the shores are sand or gravel."""
    aseasonal: float = 0.0
    """0: all parcels follow the year; 1: sowing at any time (tropics, irrigation)."""


BIOMES: tuple[Biome, ...] = (
    Biome("temperate"),
    Biome(
        "uplands",
        forest=0.0,
        farming=0.4,
        relief_m=900.0,
        snowline_m=760.0,
        treeline_m=560.0,
        bare=-1.4,
        conifer=0.6,
        lakes=-1.2,
        shrub=-0.2,
        pasture=0.55,
    ),
    Biome(
        "alpine",
        forest=0.1,
        farming=-1.0,
        relief_m=1600.0,
        snowline_m=800.0,
        treeline_m=620.0,
        bare=-0.8,
        conifer=0.9,
        lakes=-1.0,
        shrub=0.1,
        towns=0.2,
        wetland=-0.4,
    ),
    Biome(
        "boreal", forest=0.6, farming=-1.3, conifer=0.85, lakes=-0.4, wetland=1.0, towns=0.15, relief_m=120.0, shrub=0.0
    ),
    Biome(
        "mediterranean",
        forest=-0.4,
        shrub=0.7,
        farming=0.4,
        dryness=0.55,
        evergreen=True,
        sandy=0.5,
        bare=-1.2,
        sea=-1.6,
        parcel_m=110.0,
        relief_m=500.0,
        hedges=0.1,
        conifer=0.4,
    ),
    Biome(
        "arid",
        forest=-2.2,
        shrub=0.6,
        farming=-0.7,
        dryness=0.85,
        bare=0.5,
        sandy=0.85,
        lakes=-1.8,
        towns=0.3,
        evergreen=True,
        hedges=0.0,
        pasture=0.05,
        aseasonal=0.6,
        relief_m=400.0,
        wetland=-0.8,
        parcel_m=220.0,
    ),
    Biome(
        "steppe",
        forest=-1.3,
        shrub=-0.2,
        farming=0.5,
        dryness=0.5,
        parcel_m=420.0,
        hedges=0.05,
        bare=-1.2,
        towns=0.25,
        pasture=0.2,
    ),
    Biome(
        "tropical",
        forest=0.15,
        shrub=0.1,
        farming=0.4,
        evergreen=True,
        conifer=0.05,
        dryness=0.15,
        aseasonal=1.0,
        sandy=0.5,
        parcel_m=90.0,
        wetland=0.3,
        river_m=120.0,
    ),
    Biome(
        "savanna",
        forest=-0.9,
        shrub=0.6,
        farming=0.3,
        dryness=0.6,
        evergreen=True,
        conifer=0.0,
        aseasonal=0.5,
        sandy=0.7,
        bare=-1.0,
        parcel_m=80.0,
        hedges=0.1,
        pasture=0.1,
    ),
    Biome(
        "delta",
        forest=-0.7,
        farming=0.5,
        lakes=-0.5,
        wetland=1.6,
        sea=-0.7,
        relief_m=25.0,
        river_m=140.0,
        hedges=0.1,
        parcel_m=130.0,
        aseasonal=0.4,
    ),
    Biome("city", towns=1.0, farming=0.3, forest=-0.2, relief_m=120.0),
    Biome("coast", farming=0.2, forest=-0.4, shrub=0.0, sea=-0.5, beach=1.8, bare=-1.0, relief_m=120.0, towns=0.5),
    Biome(
        "desert",
        forest=-3.0,
        shrub=0.2,
        farming=-1.6,
        dryness=0.95,
        bare=1.3,
        sandy=0.8,
        lakes=-2.5,
        towns=0.2,
        evergreen=True,
        hedges=0.0,
        pasture=0.0,
        aseasonal=0.8,
        relief_m=500.0,
        wetland=-1.5,
        beach=1.5,
        sea=-2.4,
    ),
)
"""Presets from lush to barren; :func:`varied_biome` moves between and around them."""

RESERVED_BIOMES: tuple[Biome, ...] = (
    Biome(
        "maritime",
        forest=-0.25,
        shrub=0.1,
        farming=0.9,
        pasture=0.75,
        hedges=0.8,
        parcel_m=120.0,
        conifer=0.55,
        sea=-0.9,
        beach=1.0,
        bare=-1.3,
        wetland=0.9,
        relief_m=420.0,
        treeline_m=330.0,
        towns=0.5,
    ),
    Biome(
        "monsoon",
        forest=-0.1,
        farming=1.0,
        parcel_m=55.0,
        pasture=0.05,
        hedges=0.2,
        evergreen=True,
        conifer=0.0,
        dryness=0.3,
        sandy=0.35,
        aseasonal=0.8,
        wetland=1.0,
        lakes=-0.9,
        river_m=180.0,
        towns=0.65,
        quarries=0.15,
        relief_m=160.0,
    ),
    Biome(
        "plateau",
        forest=-2.0,
        shrub=0.3,
        farming=-0.4,
        bare=0.1,
        dryness=0.5,
        sandy=0.5,
        conifer=0.8,
        lakes=-0.6,
        beach=1.2,
        wetland=0.2,
        towns=0.25,
        relief_m=1200.0,
        snowline_m=700.0,
        treeline_m=500.0,
        pasture=0.5,
        hedges=0.0,
        parcel_m=200.0,
    ),
)
"""Never drawn by :func:`varied_biome`, so that evaluation has climates that training never saw."""


def varied_biome(rng: np.random.Generator) -> Biome:
    """A random preset of :data:`BIOMES` with every level jittered, so that no two worlds are alike."""
    biome = BIOMES[int(rng.integers(len(BIOMES)))]
    shares = ("towns", "quarries", "conifer", "dryness", "sandy", "hedges", "pasture", "aseasonal")
    changes: dict[str, float] = {
        name: getattr(biome, name) + float(rng.normal(0, 0.4))
        for name in ("forest", "shrub", "farming", "bare", "lakes", "sea", "wetland", "beach")
    }
    changes |= {name: float(np.clip(getattr(biome, name) + rng.normal(0, 0.15), 0.0, 1.0)) for name in shares}
    changes |= {
        name: getattr(biome, name) * float(np.exp(rng.normal(0, 0.35))) for name in ("relief_m", "parcel_m", "river_m")
    }
    colder = float(np.exp(rng.normal(0, 0.3)))
    changes |= {"treeline_m": biome.treeline_m * colder, "snowline_m": biome.snowline_m * colder}
    return replace(biome, **changes)  # type: ignore[arg-type]

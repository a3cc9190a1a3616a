"""The order of compositing that can show: held against real composites, whatever order the scenes are in."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imagery.composite import read_composite
from pipeline.planning.identity import coarse_footprint
from pipeline.planning.scene_order import EffectiveOrder, compositing_order, effective_order
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.items import normalise_item
from tests.pipeline.small_plans import scene_over
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_scene

SIZE_M = 640.0
PX = int(SIZE_M / 10)
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
FAR_M = 6000.0
"""Beyond the slack of footprints: a scene there shares no ground with those of the first place."""


def order_of(scenes: list[Scene], composite: CompositeConfig) -> EffectiveOrder:
    ordered = compositing_order(scenes, EPSG)
    return effective_order(ordered, [coarse_footprint(scene) for scene in ordered], composite)


def names_of(scenes: list[Scene], composite: CompositeConfig) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    order, ordered = order_of(scenes, composite), compositing_order(scenes, EPSG)
    return tuple(ordered[i].id for i in order.positions), order.passes, order.observations


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """Two passes over one place, the second of two granules, and a third pass over another place."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(4)
    made = []
    for name, day, left in (("a", 1, 0.0), ("b", 2, 0.0), ("c", 2, 0.0), ("far", 4, FAR_M)):
        scl = np.where(rng.random((PX // 2, PX // 2)) < 0.6, 9, 4)
        item = write_scene(
            folder,
            name,
            dn=int(rng.integers(1500, 4000)),
            scl=scl,
            left=LEFT + left,
            size_m=SIZE_M,
            time=f"2026-06-{day:02d}T10:30:00Z",
        )
        made.append(normalise_item(item, "planetary-computer"))
    return made


@pytest.mark.parametrize(
    ("method", "limit", "orders"),
    [
        # Where both passes are considered, only the two granules of one pass can show their order.
        ("median", 8, 2),
        ("median", 2, 2),
        ("median", 1, 6),
        ("least-cloudy-first", 8, 6),
        ("fuse", 8, 2),
    ],
)
def test_scenes_in_another_order_give_the_same_pixels_wherever_the_identity_says_so(
    scenes: list[Scene], method: str, limit: int, orders: int
) -> None:
    """All 24 orders of four scenes: as many identities as can show, and one composite for each."""
    composite = CompositeConfig.model_validate(
        {"method": method, "max_observations": limit, "mask_dilation_px": 0}  # many small openings
    )
    composites: dict[object, set[bytes]] = {}
    read: Counter[object] = Counter()
    for clouds in itertools.permutations(range(4)):
        shown = [dataclasses.replace(s, cloud_cover=float(c)) for s, c in zip(scenes, clouds, strict=True)]
        identity = names_of(shown, composite)
        composites.setdefault(identity, set())
        if read[identity] < 2:  # two orders of each are enough to differ
            read[identity] += 1
            found = read_composite(shown, GRID, Window(0, 0, PX, PX), composite)
            dates = b""
            if found.dated is not None:
                images = (found.dated.image(number) for number in found.dated.dates())
                dates = b"".join(image.tobytes() + own.tobytes() for image, own in images)
            composites[identity].add(found.reflectance.tobytes() + found.valid_count.tobytes() + dates)
    assert len(composites) == orders
    assert all(len(found) == 1 for found in composites.values())
    assert len(set.union(*composites.values())) == orders, "the orders that count do show"


PLACES = tuple(shapely.box(10.0 + step, 46.0, 10.3 + step, 46.2) for step in (0.0, 0.2, 0.4, 1.0))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), limit=st.integers(1, 4), method=st.sampled_from(["median", "least-cloudy-first"]))
def test_pairs_that_can_show_keep_their_order_and_the_rest_has_one_form(
    data: st.DataObject, limit: int, method: str
) -> None:
    count = data.draw(st.integers(1, 7))
    clouds = data.draw(st.permutations(range(count)))
    made = [
        scene_over(
            f"s{i}",
            PLACES[data.draw(st.integers(0, 3))],
            day=data.draw(st.integers(1, 4)),
            cloud_cover=float(clouds[i]),
        )
        for i in range(count)
    ]
    composite = CompositeConfig.model_validate({"method": method, "max_observations": limit})
    ordered = compositing_order(made, EPSG)
    order = order_of(made, composite)
    assert sorted(order.positions) == list(range(count))
    assert order.observations <= limit
    kept = [ordered[i] for i in order.positions]
    for first, second in itertools.combinations(kept, 2):
        same_ground = shapely.intersects(_area(first), _area(second))
        same_pass = abs(first.datetime - second.datetime) < dt.timedelta(minutes=10)
        if same_ground and (same_pass or method == "least-cloudy-first"):
            assert first.cloud_cover < second.cloud_cover
    # Neighbours that cannot show change places: nothing changes.
    for one, other in itertools.pairwise(range(count)):
        a, b = ordered[one], ordered[other]
        if not shapely.dwithin(_area(a), _area(b), 0.05):
            swapped = [
                dataclasses.replace(s, cloud_cover={a.id: b.cloud_cover, b.id: a.cloud_cover}.get(s.id, s.cloud_cover))
                for s in made
            ]
            assert names_of(swapped, composite) == names_of(made, composite)


def _area(scene: Scene) -> shapely.Geometry:
    return shapely.geometry.shape(scene.footprint)


def test_no_scene_has_an_order(tmp_path: Path) -> None:
    assert effective_order([], [], CompositeConfig()) == EffectiveOrder((), (), 0)


def test_a_thousand_scenes_take_a_moment() -> None:
    made = [scene_over(f"s{i:04d}", PLACES[i % 4], day=1 + i % 28, cloud_cover=float(i * 7 % 100)) for i in range(1000)]
    order = order_of(made, CompositeConfig())
    assert len(order.positions) == 1000

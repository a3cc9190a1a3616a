"""Properties of the sampler: strata, spread over cells, splits without leaks; whatever the order of the places."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.spie.sampling import Place, sampling_order, split_cells, spread, strata, without_leaks

CODES = (10, 40, 50, 80)


@st.composite
def lattice(draw: st.DrawFn) -> list[Place]:
    """Places on a lattice of 1 km squares in cells of 2 x 2, each with some classes; some without labels."""
    squares = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40, unique=True))
    counts = st.dictionaries(st.sampled_from(CODES), st.integers(1, 1000), max_size=4)
    return [
        Place(
            key=f"p-{col}-{row}",
            cell=f"{col // 2}:{row // 2}",
            bounds=(1000.0 * col, 1000.0 * row, 1000.0 * (col + 1), 1000.0 * (row + 1)),
            epsg=32632,
            pixels=draw(counts),
        )
        for col, row in squares
    ]


@given(lattice(), st.integers(0, 5))
def test_every_labelled_place_is_in_one_stratum_of_a_class_that_it_holds(places: list[Place], seed: int) -> None:
    order = sampling_order(places, seed, presence=0.1)
    sampled = [(code, place) for code, members in order.items() for place in members]
    assert Counter(place.key for _, place in sampled) == Counter(p.key for p in places if p.labelled)
    assert all(code in place.pixels for code, place in sampled)


@given(lattice())
def test_the_stratum_is_the_rarest_class_that_is_present(places: list[Place]) -> None:
    totals = Counter({code: sum(place.pixels.get(code, 0) for place in places) for code in CODES})
    for code, members in strata(places, presence=0.1).items():
        for place in members:
            present = [c for c, count in place.pixels.items() if count >= 0.1 * place.labelled]
            if present:
                assert totals[code] == min(totals[c] for c in present)
            else:
                assert place.pixels[code] == max(place.pixels.values())


@given(lattice(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_order_and_split_do_not_depend_on_the_order_of_the_places(
    places: list[Place], seed: int, shuffler: random.Random
) -> None:
    shuffled = list(places)
    shuffler.shuffle(shuffled)
    assert sampling_order(shuffled, seed, 0.02) == sampling_order(places, seed, 0.02)
    assert split_cells(shuffled, 0.3, seed) == split_cells(places, 0.3, seed)


@given(lattice(), st.integers(0, 5), st.integers(0, 40))
def test_any_beginning_of_the_order_is_even_over_the_cells(places: list[Place], seed: int, length: int) -> None:
    order = spread(places, seed, "test")
    assert Counter(place.key for place in order) == Counter(place.key for place in places)
    given_away = Counter(place.cell for place in order[:length])
    available = Counter(place.cell for place in places)
    unfinished = [given_away[cell] for cell in available if given_away[cell] < available[cell]]
    if unfinished:
        assert max(given_away.values(), default=0) <= min(unfinished) + 1


@given(lattice(), st.floats(0.0, 0.9), st.integers(0, 5))
def test_whole_cells_are_split_and_both_sides_get_one(places: list[Place], validation: float, seed: int) -> None:
    splits = split_cells(places, validation, seed)
    assert splits.keys() == {place.cell for place in places}
    held = sum(split == "validation" for split in splits.values())
    if validation > 0 and len(splits) > 1:
        assert 1 <= held <= len(splits) - 1
        assert abs(held - validation * len(splits)) <= 1
    else:
        assert held <= round(validation * len(splits))
    # Places of a lattice touch and never overlap: none is lost.
    assert without_leaks(places, splits) == places


@settings(max_examples=30)
@given(lattice(), st.floats(1.0, 900.0), st.integers(0, 5))
def test_no_training_place_shares_ground_with_a_validation_place(places: list[Place], shift: float, seed: int) -> None:
    moved = [
        Place(f"m-{p.key}", f"m{p.cell}", tuple(v + shift for v in p.bounds), p.epsg, p.pixels)  # type: ignore[arg-type]
        for p in places
    ]
    splits = split_cells([*places, *moved], 0.5, seed)
    kept = without_leaks([*places, *moved], splits)
    held = [p for p in kept if splits[p.cell] == "validation"]
    assert len(held) == sum(splits[p.cell] == "validation" for p in [*places, *moved])
    for place in kept:
        if splits[place.cell] == "train":
            assert not any(_share_ground(place, other) for other in held)


def _share_ground(a: Place, b: Place) -> bool:
    west, south = max(a.bounds[0], b.bounds[0]), max(a.bounds[1], b.bounds[1])
    east, north = min(a.bounds[2], b.bounds[2]), min(a.bounds[3], b.bounds[3])
    return east - west > 0.01 and north - south > 0.01


def test_another_seed_gives_another_sample() -> None:
    places = [Place(f"p-{i}", f"{i // 4}", (0.0, 0.0, 1.0, 1.0), 32632, {10: 5}) for i in range(40)]
    assert spread(places, 0, "test") != spread(places, 1, "test")
    assert split_cells(places, 0.5, 0) != split_cells(places, 0.5, 1)

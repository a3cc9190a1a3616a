"""The legend of a survey: proposed from the names of its classes, or read from a file and matched with them."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SurveyError
from spex_core.legend import Legend, LegendClass

SIMILAR: dict[int, tuple[str, ...]] = {
    10: ("tree", "forest", "wood", "conifer", "deciduous", "broadlea", "needle", "spruce", "pine", "oak", "beech",
         "eucalyp", "mangrove", "orchard", "plantation", "bamboo"),
    20: ("shrub", "scrub", "heath", "bush", "matorral", "maquis", "thicket"),
    30: ("grass", "meadow", "pasture", "steppe", "savanna", "lawn", "hay", "grazing", "rangeland"),
    40: ("crop", "arable", "field", "farm", "wheat", "maize", "corn", "rice", "barley", "beet", "potato", "soy",
         "vineyard", "agricult", "planted"),
    50: ("built", "urban", "resident", "settlement", "town", "city", "road", "roof", "industr", "pavement", "house",
         "village", "paved", "artificial"),
    60: ("bare", "sand", "rock", "soil", "quarry", "salt", "desert", "dune", "barren", "mine"),
    70: ("snow", "ice", "glacier"),
    80: ("water", "lake", "river", "sea", "pond", "reservoir", "ocean", "canal"),
    90: ("wetland", "marsh", "bog", "reed", "swamp", "fen", "peat"),
}  # fmt: skip
"""Code of the shipped legend → what names of its kind begin with, in the order of words below."""
_ORDER = (90, 80, 70, 50, 10, 20, 30, 40, 60)
"""Wet before all else (``wet meadow``, ``river sand``): the first that a word of the name answers to."""


def similar_code(name: str) -> int | None:
    """Code of the shipped legend's class that a name is like; None where no word of it tells."""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
    for code in _ORDER:
        if any(word.startswith(SIMILAR[code]) or (code in (10, 40) and word.endswith(SIMILAR[code])) for word in words):
            return code
    return None


def proposed_legend(names: Sequence[str], title: str) -> Legend:
    """A legend with a class for each name: codes from 1, colours near those of similar classes.

    Args:
        names: Of the survey, sorted.
        title: For people.
    """
    shipped = {entry.code: entry for entry in Legend.from_yaml()}
    classes, seen, nouns = [], dict.fromkeys(shipped, 0), set[str]()
    for code, name in enumerate(names, start=1):
        like = similar_code(name)
        if like is None:
            rgb = colorsys.hsv_to_rgb(code * 0.381966 % 1.0, 0.55, 0.85)
        else:
            shade = (1.0, 0.72, 0.5, 0.86, 0.6)[seen[like] % 5]
            seen[like] += 1
            red, green, blue = shipped[like].rgb
            rgb = red / 255 * shade, green / 255 * shade, blue / 255 * shade
        noun = re.sub(r"\s+", " ", name.casefold()).strip()
        while noun in nouns:  # names that differ in letters' case alone
            noun += " too"
        nouns.add(noun)
        color = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
        classes.append(LegendClass(code=code, name=name, noun=noun, color=color))
    return Legend("survey", title, tuple(classes))


def matched(legend: Legend, names: Sequence[str], path: Path) -> dict[str, int]:
    """Position in a legend of each name of a survey, by name, noun or code.

    Raises:
        SurveyError: A name that the legend has not.
    """
    known: dict[str, int] = {}
    for position, entry in enumerate(legend):
        for key in (entry.name, entry.noun, str(entry.code)):
            known.setdefault(key.casefold(), position)
    unknown = [name for name in names if name.casefold() not in known]
    if unknown:
        raise SurveyError(
            f"points file {path} has classes that the legend {legend.name!r} lacks: "
            f"{', '.join(repr(name) for name in unknown[:10])}; it has {', '.join(map(repr, legend.names))}"
        )
    return {name: known[name.casefold()] for name in names}

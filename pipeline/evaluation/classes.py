"""Which classes are compared: those of the asked legend, groups of them, or a data set's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from spex_core.legend import Legend, LegendClass

Channels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Classes:
    """The compared classes, and the way to them from the classes that the model is asked for."""

    legend: Legend
    """Compared classes, G of them."""
    channel_of_asked: Channels
    """``[K]``: compared channel of each class that is asked for; -1: none."""

    @property
    def grouped(self) -> bool:
        """Whether the compared classes are others than those asked for."""
        return not np.array_equal(self.channel_of_asked, np.arange(len(self.legend)))


def compared_classes(asked: Legend, groups: Mapping[str, Sequence[int]]) -> Classes:
    """Classes to compare.

    Args:
        asked: K classes that the model is asked for.
        groups: Name → codes of ``asked``; empty: each class by itself.

    Raises:
        ConfigError: A code that the legend lacks, or an empty group.
    """
    if not groups:
        return Classes(asked, np.arange(len(asked), dtype=np.int16))
    channel = np.full(len(asked), -1, np.int16)
    entries = []
    for position, (name, codes) in enumerate(groups.items()):
        unknown = [code for code in codes if code not in asked.codes]
        if unknown or not codes:
            raise ConfigError(
                f"groups.{name}: {', '.join(map(str, unknown)) or 'no code'}; legend {asked.name!r} has the codes "
                f"{', '.join(map(str, asked.codes))}"
            )
        channel[[asked.codes.index(code) for code in codes]] = position
        color = asked.classes[asked.codes.index(codes[0])].color
        entries.append(LegendClass(position + 1, name, name, color))
    return Classes(Legend(f"groups of {asked.name}", f"Groups of {asked.title}", tuple(entries)), channel)


def channels_of(labels: Legend, asked: Legend, classes: Classes) -> Channels:
    """Compared channel of each class of a source's labels, ``[L]``; -1: not compared.

    Args:
        labels: Classes of the source.
        asked: Classes that the model is asked for.
        classes: What is compared.

    Raises:
        ConfigError: The labels are neither those asked for, nor has any the name of a compared class.
    """
    if labels.names == classes.legend.names:
        return np.arange(len(labels), dtype=np.int16)
    if labels.codes == asked.codes and labels.names == asked.names:
        return classes.channel_of_asked
    if set(labels.names) & set(classes.legend.names):
        names = classes.legend.names
        return np.array([names.index(name) if name in names else -1 for name in labels.names], np.int16)
    raise ConfigError(
        f"the labels are {', '.join(labels.names)}, but {', '.join(classes.legend.names)} are compared; say under "
        "'groups' which codes of the legend count as each class of the labels"
    )

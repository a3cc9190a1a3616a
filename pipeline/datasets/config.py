"""What a file says about a public data set."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.settings.yaml_file import Section


class DatasetConfig(Section):
    """A public data set that the user holds, with its published split (see :mod:`pipeline.datasets`)."""

    name: str
    root: Path
    split: str | None = None
    """Default: the split that the published figures are of."""
    count: int | None = Field(default=None, ge=1)
    """At most so many chips, evenly spread; figures of a part are no figures of the benchmark, and are marked so."""
    options: dict[str, str] = Field(default_factory=dict)
    """Further choices of the adapter, e.g. ``state: md``."""

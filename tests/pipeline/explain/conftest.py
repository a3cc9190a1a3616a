"""One map by the index rules, made once for the tests of explanations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import tiny_config
from tests.pipeline.kept_runs import kept_run


@pytest.fixture(scope="package")
def output(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a map whose store was kept."""
    return kept_run(tiny_config(tiny_archive, tmp_path_factory.mktemp("out"), regions={"grid_km": 1.0}))

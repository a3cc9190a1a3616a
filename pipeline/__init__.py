"""The mapping engine: STAC scenes in, a seamless land-cover map, explanations and a STAC catalog out.

``pipeline.run(config)`` maps, ``pipeline.plan(config)`` only plans. Both share their name with a module: the
imports below must come here, at once, so that ``pipeline.run`` and ``pipeline.plan`` mean the functions for good.
The run file is imported on first use: a machine that only classifies tiles needs neither pydantic nor rasters.
"""

from typing import TYPE_CHECKING, Any

from pipeline.records.plan import MapPlan
from pipeline.records.result import RunResult
from pipeline.run import plan, run

if TYPE_CHECKING:
    from pipeline.settings.run_file import RunConfig

__all__ = ["MapPlan", "RunConfig", "RunResult", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name == "RunConfig":
        from pipeline.settings.run_file import RunConfig

        return RunConfig
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")

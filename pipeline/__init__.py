"""The mapping engine: STAC scenes in, a seamless land-cover map, explanations and a STAC catalog out.

``pipeline.run(config)`` maps, ``pipeline.plan(config)`` only plans, ``pipeline.open_map(folder)`` opens maps. The
first two share their name with a module: the imports below must come here, at once, so that ``pipeline.run`` and
``pipeline.plan`` mean the functions for good.
All else is imported on first use: whoever asks for help waits for nothing, and a machine that only classifies tiles
needs neither pydantic nor rasters.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.run import plan, run

if TYPE_CHECKING:
    from pipeline.outputs.open_map import open_map
    from pipeline.records.plan import MapPlan
    from pipeline.records.result import RunResult
    from pipeline.settings.run_file import RunConfig

__all__ = ["MapPlan", "RunConfig", "RunResult", "open_map", "plan", "run"]


_LAZY = {
    "open_map": "pipeline.outputs.open_map",
    "MapPlan": "pipeline.records.plan",
    "RunConfig": "pipeline.settings.run_file",
    "RunResult": "pipeline.records.result",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")

"""The mapping engine: STAC scenes in, a seamless land-cover map, explanations and a STAC catalog out.

``pipeline.run(config)`` maps, ``pipeline.plan(config)`` only plans. Both share their name with a module: the
imports below must come here, at once, so that ``pipeline.run`` and ``pipeline.plan`` mean the functions for good.
"""

from pipeline.records.plan import MapPlan
from pipeline.records.result import RunResult
from pipeline.run import plan, run
from pipeline.settings.run_file import RunConfig

__all__ = ["MapPlan", "RunConfig", "RunResult", "plan", "run"]

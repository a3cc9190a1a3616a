"""Training: ``spex train FILE``. The file, its chips, the model it starts from, and Ray Train around the loop.

The loop itself, which knows nothing of files or Ray, is :mod:`spex_core.training`.
"""

from pipeline.training.config import TrainFile
from pipeline.training.launch import TrainResult, train

__all__ = ["TrainFile", "TrainResult", "train"]

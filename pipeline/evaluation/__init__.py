"""Honest accuracy: a checkpoint against labels, beside what simpler means give on the same pixels."""

from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.result import EvaluationResult

__all__ = ["EvaluationConfig", "EvaluationResult", "evaluate"]

"""Accuracy near image borders and at tile seams."""

from .evaluator import EvaluationPlan, evaluate
from .hook import PaddingEvalHook
from .metric import BorderIoUMetric

__all__ = ["BorderIoUMetric", "EvaluationPlan", "PaddingEvalHook", "evaluate"]

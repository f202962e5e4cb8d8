"""Accuracy near image borders and tile seams."""

from .metric import BorderIoUMetric

__all__ = ["BorderIoUMetric"]

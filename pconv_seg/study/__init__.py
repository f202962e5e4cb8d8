"""A controlled comparison of paddings: many trainings, one evaluation, one report."""

from .start import StartDigestHook

__all__ = ["StartDigestHook"]

"""NEEDS A DOCSTRING: guidebook.inference.gradient.run."""

from __future__ import annotations

CHUNK = 50


SECONDS_BETWEEN_CHECKPOINTS = 10.0


RHAT_LIMIT = 1.05

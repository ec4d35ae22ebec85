"""Measurements of Guidebook: speed, memory, and verdicts against known posteriors."""

"""Families over units -1 and +1."""

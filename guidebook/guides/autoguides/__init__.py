"""Families q(z) on the unconstrained scale, for any model."""

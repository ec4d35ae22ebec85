"""Engines that leave normals where an optimiser goes."""

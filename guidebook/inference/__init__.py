"""Engines that bring q to p; each returns a Fit."""

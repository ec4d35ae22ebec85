"""What is computed of draws and densities, before anyone draws conclusions: weights, modes, basins."""

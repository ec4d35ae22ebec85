"""Where the batches of a fit come from: rows drawn by a seed, or an iterable of batches."""

"""Numbers of a fit on which no verdict rests: bounds, information, gradients, disentanglement."""

"""What an engine climbs: bounds and estimators of their gradients, one a file."""

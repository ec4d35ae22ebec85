"""What an engine may ask of a guide beyond draws and densities."""

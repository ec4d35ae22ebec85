"""Models whose latent of a row is decoded into what is observed of it."""

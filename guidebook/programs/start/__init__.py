"""Where a fit starts: a mode of the posterior, and the Gaussian of highest ELBO."""

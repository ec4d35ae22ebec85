"""What an engine climbs: bounds and estimators of their gradients, one a file.

They change what is climbed or how its gradient is estimated, and leave model and guide what they
are: the fit holds the true p and q, so that every diagnostic measures against the true posterior.
All are given as `gb.svi(model, guide, data, objective=...)`, and so is any ELBO of Pyro's. All are
minimised, so they are negative bounds, in nats of the whole data (`size` scales a mini-batch).

A new objective is one file: a class of `objective.Objective` with `differentiable_loss`.
"""

"""Normal draws of one or more posteriors, with the log ratios that they are given."""

from typing import Any

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject


def subject_of(log_ratio: np.ndarray | None, marginals: int = 1, **facts: Any) -> Subject:
    """Standard normal draws of as many posteriors as there are columns of log ratios."""
    size, n = (100, 1) if log_ratio is None else log_ratio.shape
    values = np.random.default_rng(9).standard_normal((size, n, marginals))
    names = [f"z[{j}]" for j in range(marginals)]
    given: dict[str, Any] = {"kind": "density", "discrete": np.zeros(marginals, bool)}
    return Subject(**given | {"names": names, "values": values, "log_ratio": log_ratio} | facts)

r"""The travelling salesman as an energy: a tour is a state of least energy of a spin network.

City c > 0 at place p is a unit n = (x + 1) / 2 in {0, 1}; city 0 stands at place 0, which takes the
rotations of a tour away. With d the distances and places p = 1..n-1,

.. math:: C(n) = A \sum_c (1 - \sum_p n_{cp})^2 + A \sum_p (1 - \sum_c n_{cp})^2
    + \sum_{c \ne c'} d_{cc'} \sum_p n_{cp} n_{c', p+1} + \sum_c d_{0c} (n_{c,1} + n_{c,n-1})

which is E(x) + constant. Source: Hopfield & Tank (1985), "Neural" computation of decisions in
optimization problems; the penalties in this form: Lucas (2014), Ising formulations of many NP
problems, section 7.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError


class TourEnergy(NamedTuple):
    """`weights` (D, D), `bias` (D,) and `constant` with C = E + constant; D = (n - 1)^2 units."""

    weights: Tensor
    bias: Tensor
    constant: Tensor


def tour_energy(distances: Tensor, penalty: float | None = None) -> TourEnergy:
    """The energy of the tours through n cities with `distances` (n, n).

    `penalty` is A; where it is not given, the largest distance, which is enough: a state of least
    energy is then a shortest tour (n >= 3; each broken rule costs at least A, and saves less).
    Every tour has E + constant = its length.

    Raises DataError unless the distances are a square, symmetric, finite, non-negative matrix of 3
    cities or more with a diagonal of 0; SettingError for a penalty that is not positive.
    """
    n = len(distances)
    _check(distances)
    A = float(distances.max()) if penalty is None else penalty
    if not A > 0:
        raise SettingError(f"penalty={penalty} must be positive: the largest distance is enough.")
    m = n - 1
    eye = torch.eye(m).to(distances)
    next_to = torch.diag(torch.ones(m - 1), 1).to(distances)
    same = torch.kron(eye, 1 - eye) + torch.kron(1 - eye, eye)  # one city or one place
    follows = torch.kron(distances[1:, 1:], next_to + next_to.mT)
    # C(n) = 1/2 n'Qn + l'n + 2 A m, from (1 - s)^2 = 1 - s + sum of the pairs
    Q = 2 * A * same + follows
    ends = torch.zeros(m).to(distances)
    ends[0] += 1
    ends[-1] += 1
    linear = torch.kron(distances[0, 1:], ends) - 2 * A
    rows = Q.sum(-1)
    constant = 2 * A * m + rows.sum() / 8 + linear.sum() / 2
    return TourEnergy(-Q / 4, -(rows / 4 + linear / 2), constant)


def decode_tour(x: Tensor, cities: int) -> tuple[Tensor, Tensor]:
    """Tours (..., n) that start at city 0, from states (..., (n-1)^2), and whether each is valid.

    Where a place is empty or a city is claimed twice, the state is no tour (valid is False): its
    places are then filled in order, with a claimed city that is left before one that is not.
    """
    m = cities - 1
    if x.shape[-1] != m * m:
        raise DataError(f"{cities} cities need {m * m} units, and the state has {x.shape[-1]}.")
    units = (x.reshape(*x.shape[:-1], m, m) > 0).to(torch.get_default_dtype())
    valid = ((units.sum(-1) == 1) & (units.sum(-2) == 1)).all(-1)
    free = torch.ones_like(units[..., 0])
    tour = [torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)]
    for place in range(m):
        city = (free * (1 + units[..., place])).argmax(-1)
        free = free.scatter(-1, city.unsqueeze(-1), 0.0)
        tour.append(city + 1)
    return torch.stack(tour, -1), valid


def tour_length(tour: Tensor, distances: Tensor) -> Tensor:
    """The length of closed tours (..., n), shape (...), in the units of the distances."""
    return distances[tour, tour.roll(-1, -1)].sum(-1)


def _check(distances: Tensor) -> None:
    square = distances.dim() == 2 and distances.shape[0] == distances.shape[1]
    if not square or len(distances) < 3:
        raise DataError(
            f"distances must be a matrix (n, n) of 3 cities or more, not {tuple(distances.shape)}."
        )
    fine = bool(distances.isfinite().all() and (distances >= 0).all())
    if not fine or bool(distances.diagonal().any()) or not torch.equal(distances, distances.mT):
        raise DataError(
            "distances must be finite, not negative, symmetric, and 0 from a city to itself: the "
            "energy of a tour reads the same both ways."
        )

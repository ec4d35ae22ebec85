"""Mean-field posteriors of Gaussian mixtures, and the structure that the conjugate engines ask for.

With the globals beta = (weights, components) in exponential families, t their statistics, and the
assignments z summed out,

    log sum_z exp E_q[log p(x_i, z | beta)] = log sum_k exp <F(x_i), E_q[t(beta_k)]> + const:

everything is a product of a matrix of features of the rows, F(x) = (x, x x'), with a matrix of
expectations. Its gradient with respect to E_q[t] is the expected sufficient statistics. Rows pass
in chunks; no array of rows x components x columns is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError
from guidebook.guides.conjugate.exponential_family import Dirichlet, Normal, NormalWishart
from guidebook.programs.plate import rows
from guidebook.scope import quiet

Natural = dict[str, Tensor]


class MixtureMeanField(nn.Module):
    r"""q(weights) prod_k q(loc_k, precision_k), each of its prior's family, for a GaussianMixture.

    Assignments are summed out under q: responsibilities r_ik proportional to exp E_q[log p(x_i, z_i
    = k | beta)]. As a Pyro guide it samples the globals; `with_assignments` also samples z.

    It offers what `cavi`, `natural_svi` and `gibbs` ask for: `families`, `prior`, `initial_natural`,
    `local`, `adopt`; `initial`, `sweep`, `sites`. Natural parameters refer to means measured from
    `shift`, the mean of the data seen first, so that data far from zero lose no digits.

    Raises GuideError for a model without conjugate structure.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        needed = ("K", "D", "covariance", "concentration", "prior", "globals")
        missing = [name for name in needed if not hasattr(model, name)]
        if missing:
            raise GuideError(
                f"The model has no {', '.join(missing)}: this guide is for "
                "guidebook.models.GaussianMixture. For another model use gb.guides.mean_field."
            )
        self._model = (model,)  # in a tuple: not a part of the guide
        family = NormalWishart(model.D if model.covariance == "full" else 1)
        self.shift: Tensor
        self.families: dict[str, Any] = {
            "components": Normal() if model.covariance == "unit" else family
        }
        if model.concentration is not None:
            self.families["weights"] = Dirichlet()
        self.register_buffer("shift", torch.zeros(model.D, dtype=torch.float64))
        for name, value in self.prior.items():
            self.register_buffer(f"natural_{name}", value)

    @property
    def model(self) -> Any:
        """The mixture whose posterior this is."""
        return self._model[0]

    # exponential-family form -----------------------------------------------------------------------

    @property
    def prior(self) -> Natural:
        """Natural parameters of the prior, by family."""
        return self.natural_of(self.model.prior(self.shift))

    @property
    def natural(self) -> Natural:
        """Natural parameters of q, by family."""
        return {name: getattr(self, f"natural_{name}") for name in self.families}

    def adopt(self, natural: Mapping[str, Tensor]) -> None:
        """Make these natural parameters those of q."""
        for name, value in natural.items():
            setattr(self, f"natural_{name}", value.detach().clone())

    def natural_of(self, hyper: Mapping[str, Tensor]) -> Natural:
        """Natural parameters of hyperparameters in the model's names; see `GaussianMixture`."""
        loc, family = hyper["loc"] - self.shift, self.families["components"]
        if isinstance(family, Normal):
            scale = hyper["mean_precision"].rsqrt().unsqueeze(-1)
            found = {"components": family.natural(loc=loc, scale=scale)}
        else:
            inverse = hyper["inverse_scale"]
            if self.model.covariance == "diagonal":
                loc, inverse = loc.unsqueeze(-1), inverse[..., None, None]
            found = {
                "components": family.natural(
                    loc=loc,
                    mean_precision=hyper["mean_precision"],
                    df=hyper["df"],
                    inverse_scale=inverse,
                )
            }
        if "weights" in self.families:
            found["weights"] = Dirichlet().natural(hyper["concentration"])
        return found

    def hyper(self, natural: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The hyperparameters of q (or of these natural parameters) in the model's names."""
        natural = self.natural if natural is None else natural
        found = dict(self.families["components"].standard(natural["components"]))
        if self.model.covariance == "unit":
            found["mean_precision"] = found.pop("scale")[..., 0].pow(-2)
        elif self.model.covariance == "diagonal":
            found["loc"] = found["loc"].squeeze(-1)
            found["inverse_scale"] = found["inverse_scale"][..., 0, 0]
        found["loc"] = found["loc"] + self.shift
        if "weights" in natural:
            found |= Dirichlet().standard(natural["weights"])
        return found

    def expected(self, natural: Mapping[str, Tensor]) -> Natural:
        """E_q[t(beta)] by family."""
        return {name: self.families[name].mean(value) for name, value in natural.items()}

    # rows ------------------------------------------------------------------------------------------

    def begin(self, sample: Tensor) -> None:
        """Measure means from the mean of these rows."""
        if sample.dim() != 2 or sample.shape[1] != self.model.D:
            raise DataError(
                f"x has shape {tuple(sample.shape)}: the mixture needs (rows, {self.model.D})."
            )
        self.shift = sample.mean(0).to(self.shift)
        self.adopt(self.prior)

    def local(self, x: Tensor, expected: Mapping[str, Tensor]) -> tuple[Tensor, Natural]:
        """sum_i log sum_k exp E_q[log p(x_i, z_i = k | beta)], and its gradient by E_q[t].

        x (n, D); the gradient is the message of the rows to the natural parameters of the globals.
        """
        features = self._features(x)
        bound, share = self._shares(features, expected)
        counts = share.sum(0)
        return bound, self._message(counts, share.mT @ features)

    def responsibilities(self, x: Tensor) -> Tensor:
        """r_ik under q, (n, K)."""
        return self._shares(self._features(x.to(self.shift)), self.expected(self.natural))[1]

    def _features(self, x: Tensor) -> Tensor:
        """(x, second powers) of x (n, D) measured from `shift`."""
        x = x.to(self.shift.dtype) - self.shift
        if self.model.covariance == "unit":
            return torch.cat([x, x.square().sum(-1, keepdim=True)], -1)
        if self.model.covariance == "diagonal":
            return torch.cat([x, x.square()], -1)
        D = self.model.D  # columns of the result lie one after the other: so do the products
        out = torch.empty(D + D * (D + 1) // 2, len(x), dtype=x.dtype, device=x.device)
        out[:D] = x.mT
        place = D
        for i in range(D):
            torch.mul(out[: i + 1], out[i], out=out[place : place + i + 1])
            place += i + 1
        return out.mT

    def _triangle(self) -> tuple[Tensor, Tensor]:
        row, column = torch.tril_indices(self.model.D, self.model.D, device=self.shift.device)
        return row, column

    def _shares(self, features: Tensor, expected: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The sum over rows of log sum_k, and the responsibilities (n, K)."""
        matrix, offset = self._scores(expected["components"])
        equal = offset.new_tensor(-math.log(self.model.K))
        offset = offset + expected.get("weights", equal)
        score = (matrix.mT.contiguous() @ features.mT).add_(offset.unsqueeze(-1))
        top = score.amax(0)
        # exp is many times slower where its result underflows
        share = score.sub_(top).clamp_(min=-200).exp_()
        total = share.sum(0)
        return (top + total.log()).sum(), share.div_(total).mT

    def _scores(self, expected: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix (..., M, K) and the offset (..., K) with scores F matrix + offset."""
        D, family = self.model.D, self.families["components"]
        constant = -0.5 * D * math.log(2 * math.pi)
        if isinstance(family, Normal):
            first, second = expected.unbind(-1)
            matrix = torch.cat([first, torch.full_like(first[..., :1], -0.5)], -1)
            return matrix.mT, constant - 0.5 * second.sum(-1)
        assert isinstance(family, NormalWishart)
        log_det, precision, moved, inner = family.split(expected)
        if self.model.covariance == "diagonal":
            matrix = torch.cat([moved[..., 0], -0.5 * precision[..., 0, 0]], -1)
            return matrix.mT, constant + 0.5 * (log_det - inner).sum(-1)
        row, column = self._triangle()
        twice = torch.where(row == column, -0.5, -1.0).to(expected)  # both halves of x' L x
        matrix = torch.cat([moved, precision[..., row, column] * twice], -1)
        return matrix.mT, constant + 0.5 * (log_det - inner)

    def _message(self, counts: Tensor, sums: Tensor) -> Natural:
        """Messages of rows with these counts (..., K) and sums of features (..., K, M)."""
        D, family = self.model.D, self.families["components"]
        first, second = sums[..., :D], sums[..., D:]
        half = 0.5 * counts
        if isinstance(family, Normal):
            found = torch.stack([first, -half.unsqueeze(-1).expand_as(first)], -1)
        elif self.model.covariance == "diagonal":
            half = half.unsqueeze(-1).expand_as(first)
            found = torch.stack([half, -0.5 * second, first, -half], -1)
        else:
            assert isinstance(family, NormalWishart)
            row, column = self._triangle()
            matrix = second.new_zeros(*counts.shape, D, D)
            matrix[..., row, column] = second
            matrix[..., column, row] = second
            found = family.join(half, -0.5 * matrix, first, -half)
        return {"components": found} | ({"weights": counts} if "weights" in self.families else {})

    def initial_natural(self, sample: Tensor, count: int, seed: int) -> Natural:
        """Natural parameters from k-means on some rows that stand for `count`.

        Duplicated rows or fewer rows than components leave components at their prior.
        """
        self.begin(sample)
        share = hard_assignments(sample, self.model.K, seed).to(self.shift)
        features = self._features(sample)
        weight = count / len(sample)
        message = self._message(weight * share.sum(0), weight * (share.mT @ features))
        return {name: value + message[name] for name, value in self.prior.items()}

    # complete conditionals, for gibbs --------------------------------------------------------------

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the globals."""
        of_components = {"unit": ("loc",), "diagonal": ("precision", "loc"),
                         "full": ("log_cholesky", "loc")}[self.model.covariance]  # fmt: skip
        return ("weights", *of_components) if "weights" in self.families else of_components

    def initial(self, data: Mapping[str, Any], chains: int, generator: torch.Generator) -> Natural:
        """Globals given random assignments, each chain its own: (chains, ...)."""
        x = data["x"]
        self.begin(x)
        z = torch.randint(self.model.K, (chains, len(x)), generator=generator, device=x.device)
        return self._given_assignments(z, self._features(x))

    def sweep(self, state: Natural, data: Mapping[str, Any], generator: torch.Generator) -> Natural:
        """Assignments given globals, then globals given assignments."""
        features = self._features(data["x"])
        matrix, offset = self._scores(self._point_statistics(state))
        if "weights" in state:
            offset = offset + state["weights"].log()
        share = (features @ matrix + offset.unsqueeze(-2)).softmax(-1)
        z = torch.multinomial(share.flatten(0, 1), 1, generator=generator).view(share.shape[:-1])
        return self._given_assignments(z, features)

    def _given_assignments(self, z: Tensor, features: Tensor) -> Natural:
        """A draw of the globals given z (chains, n)."""
        share = nn.functional.one_hot(z, self.model.K).to(features)
        message = self._message(share.sum(-2), share.mT @ features)
        natural = {name: value + message[name] for name, value in self.prior.items()}
        values: Natural = self.model.globals(self.hyper(natural))
        return values | {"z": z}

    def _point_statistics(self, values: Mapping[str, Tensor]) -> Tensor:
        """t(beta) of the components at values of the sites."""
        loc, family = values["loc"] - self.shift, self.families["components"]
        if isinstance(family, Normal):
            return family.statistics(loc)
        precision = values["precision"]
        if self.model.covariance == "diagonal":
            loc, precision = loc.unsqueeze(-1), precision[..., None, None]
        return family.statistics(loc, precision)

    # as a Pyro guide -------------------------------------------------------------------------------

    def forward(self, x: Tensor | None = None, size: int | None = None) -> dict[str, Tensor]:
        """Sample the globals from q; the arguments are the model's and are not read."""
        with poutine.block(hide_fn=lambda site: site["infer"].get("_deterministic", False)):
            values: dict[str, Tensor] = self.model.globals(self.hyper())
        return values

    def with_assignments(self, x: Tensor, size: int | None = None) -> None:
        """The guide of globals and assignments: z_i ~ Categorical(r_i)."""
        self.forward(x, size)
        with rows(len(x), size, x.device):
            pyro.sample(
                "z",
                dist.Categorical(self.responsibilities(x)),
                infer={"enumerate": "parallel"},
            )


def hard_assignments(x: Tensor, K: int, seed: int) -> Tensor:
    """Indicators (n, K) of k-means clusters; clusters beyond the distinct rows stay empty."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = x.detach().cpu().numpy()
    with quiet(category=ConvergenceWarning):  # fewer distinct rows than clusters
        found = KMeans(min(K, len(points)), n_init=4, random_state=seed % 2**32).fit(points)
    labels = torch.as_tensor(found.labels_, dtype=torch.long)
    return torch.nn.functional.one_hot(labels, K).double()

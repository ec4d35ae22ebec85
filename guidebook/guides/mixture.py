"""Mean-field posteriors of Gaussian mixtures, and the structure that the conjugate engines ask for.

With the globals beta = (weights, components) in exponential families, t their statistics, and the
assignments z summed out,

    log sum_z exp E_q[log p(x_i, z | beta)] = log sum_k exp <F(x_i), E_q[t(beta_k)]> + const:

everything is a product of a matrix of features of the rows, F(x) = (x, x x'), with a matrix of
expectations. Its gradient with respect to E_q[t] is the expected sufficient statistics. Rows pass
in chunks; no array of rows x components x columns is made.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.exponential_family import (
    Dirichlet,
    Normal,
    NormalWishart,
)
from guidebook.guides.rows import rows

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
        point = {"components": self._point_statistics(state)}
        if "weights" in state:
            point["weights"] = state["weights"].log()
        matrix, offset = self._scores(point["components"])
        offset = offset + point.get("weights", offset.new_tensor(-math.log(self.model.K)))
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
        with rows("row", len(x), size, x.device):
            pyro.sample(
                "z",
                dist.Categorical(self.responsibilities(x)),
                infer={"enumerate": "parallel"},
            )


def hard_assignments(x: Tensor, K: int, seed: int) -> Tensor:
    """Indicators (n, K) of k-means clusters; clusters beyond the distinct rows stay empty."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = x.detach().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        found = KMeans(min(K, len(points)), n_init=4, random_state=seed % 2**32).fit(points)
    labels = torch.as_tensor(found.labels_, dtype=torch.long)
    return torch.nn.functional.one_hot(labels, K).double()


class EnumeratedMixture(nn.Module):
    r"""The exact posterior of the means of a small mixture, all K^n assignments enumerated.

    For `covariance="unit"` and fixed weights: given assignments z with counts n_k and sums s_k,

    .. math:: \mu_k \mid z, x \sim N\Big(\frac{\kappa m + s_k}{\kappa + n_k},
        \frac{1}{\kappa + n_k} I\Big), \qquad p(z \mid x) \propto p(x \mid z) K^{-n}

    so the posterior is a mixture of K^n Gaussians, and log p(x) a sum of as many terms.

    Raises GuideError for another kind of mixture, DataError when K^n is above 20,000.

    Source: Blei, Kucukelbir & McAuliffe (2017), Variational inference, section 2.1: why this sum is
    out of reach for larger n.
    """

    MOST = 20_000

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "covariance", None) != "unit" or model.concentration is not None:
            raise GuideError(
                "The enumerated posterior is known for GaussianMixture(covariance='unit', "
                "concentration=None): for other mixtures use gibbs as the reference."
            )
        self._model = (model,)

    def posterior(self, x: Tensor) -> tuple[dist.TorchDistribution, Tensor]:
        """The distribution of the means (K, D), and log p(x), for x (n, D)."""
        model = self._model[0]
        n, K, D = len(x), model.K, model.D
        if K**n > self.MOST:
            raise DataError(
                f"{K}^{n} assignments are more than {self.MOST:,}: enumerate at most "
                f"{int(math.log(self.MOST) / math.log(max(K, 2)))} rows, or use gibbs."
            )
        codes = torch.arange(K**n, device=x.device)
        z = torch.stack([codes // K**i % K for i in range(n)], -1)
        share = nn.functional.one_hot(z, K).to(x)
        hyper = model.prior(x)
        kappa, prior_mean = hyper["mean_precision"], hyper["loc"]
        counts = share.sum(1)
        precision = kappa + counts
        sums = kappa.unsqueeze(-1) * prior_mean + share.mT @ x
        loc = sums / precision.unsqueeze(-1)
        # log p(x | z) by completing the square in every component
        squares = x.square().sum() + (kappa * prior_mean.square().sum(-1)).sum()
        left = squares - (precision.unsqueeze(-1) * loc.square()).sum((-2, -1))
        log_x = 0.5 * D * (kappa.log() - precision.log()).sum(-1) - 0.5 * left
        log_x = log_x - 0.5 * n * D * math.log(2 * math.pi) - n * math.log(K)
        scale = precision.rsqrt().unsqueeze(-1).expand_as(loc)
        components = dist.Normal(loc, scale).to_event(2)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=log_x), components)
        return mixture, log_x.logsumexp(0)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), a scalar."""
        return self.posterior(x)[1]

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample the site `loc` (K, D) given all of x."""
        if x is None or size not in (None, len(x)):
            raise GuideError("The enumerated posterior needs all rows: pass x, and no mini-batch.")
        value: Tensor = pyro.sample("loc", self.posterior(x)[0])
        return value


class MixtureMode(nn.Module):
    r"""The globals of a GaussianMixture at one point, for `em`: assignments are summed out.

    E-step: responsibilities r_ik = p(z_i = k | x_i, theta). M-step: with the natural parameters
    eta = eta0 + sum_i r_ik (...) of the complete conditionals, their modes in (weights, loc,
    precision),

    .. math:: \mu_k = m_k, \qquad \Lambda_k = (\nu_k - D) V_k, \qquad
        \pi_k \propto a_k + N_k - 1

    `prior=True` climbs log p(x | theta) + log p(theta) (marginal MAP), `prior=False` the likelihood
    alone, whose maximum for free variances is infinite where a component shrinks to a point.

    Raises SettingError for prior=True with a concentration below 1, whose mode is at the boundary,
    GuideError for a model without conjugate structure.

    Source: Dempster, Laird & Rubin (1977); Fraley & Raftery (2007), Bayesian regularization for
    normal mixture estimation and model-based clustering.
    """

    family = "delta"

    def __init__(self, model: Any, *, prior: bool = True) -> None:
        super().__init__()
        self.structure = MixtureMeanField(model)
        self.prior = prior
        low = model.concentration is not None and model.concentration < 1
        if prior and low:
            raise SettingError(
                f"concentration={model.concentration} is below 1, so log p(weights) is unbounded at "
                "the boundary and has no mode inside: give at least 1, or prior=False."
            )
        self.values: Natural = {}

    def start(self, data: Mapping[str, Any], seed: int) -> Natural:
        """Where k-means puts the components."""
        x = data["x"]
        natural = self.structure.initial_natural(x, len(x), seed)
        return self._mode(natural)

    def e_step(self, rows: Mapping[str, Any], parameters: Natural) -> tuple[Natural, Tensor]:
        """Messages of the rows, and log p(rows | parameters)."""
        point = {"components": self.structure._point_statistics(parameters)}
        if "weights" in parameters:
            point["weights"] = parameters["weights"].log()
        bound, message = self.structure.local(rows["x"], point)
        return message, bound

    def m_step(self, statistics: Natural, parameters: Natural) -> Natural:
        """The modes of the complete conditionals."""
        if not self.prior:
            return self._mode(statistics)
        prior = self.structure.prior
        return self._mode({name: prior[name] + value for name, value in statistics.items()})

    def log_prior(self, parameters: Natural) -> Tensor:
        """log p(weights, loc, precision), of the density by precision matrices; 0 without a prior."""
        total = self.structure.shift.new_zeros(())
        if not self.prior:
            return total
        prior, families = self.structure.prior, self.structure.families
        points = {"components": self.structure._point_statistics(parameters)}
        if "weights" in parameters:
            points["weights"] = parameters["weights"].log()
        for name, point in points.items():
            density = (prior[name] * point).sum(-1) - families[name].log_normaliser(prior[name])
            total = total + density.sum()
        if self.structure.model.covariance == "unit":
            count = self.structure.model.K * self.structure.model.D
            total = total - 0.5 * count * math.log(2 * math.pi)
        return total

    def _mode(self, natural: Natural) -> Natural:
        """Values at the modes of the families with these natural parameters."""
        found = {}
        if "weights" in natural:
            found["weights"] = natural["weights"] / natural["weights"].sum()
        family = self.structure.families["components"]
        standard = family.standard(natural["components"])
        loc = standard["loc"]
        if not isinstance(family, Normal):
            precision = 2 * natural["components"][..., 0][..., None, None]
            precision = precision * torch.linalg.inv(standard["inverse_scale"])
            if self.structure.model.covariance == "diagonal":
                loc, precision = loc.squeeze(-1), precision[..., 0, 0]
            found["precision"] = precision
        return found | {"loc": loc + self.structure.shift}

    def finished(self, model: Any, parameters: Natural) -> tuple[Any, MixtureMode]:
        """The model as it is, and a copy of the guide at these values."""
        guide = copy.deepcopy(self)
        guide.values = {name: value.detach().clone() for name, value in parameters.items()}
        return model, guide

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Natural:
        """The values of the sites, as point masses."""
        model, values = self.structure.model, dict(self.values or self._mode(self.structure.prior))
        if model.covariance == "full":
            values["log_cholesky"] = model.log_cholesky(values.pop("precision"))
        if "weights" in values:
            pyro.sample("weights", dist.Delta(values["weights"], event_dim=1))
        with pyro.plate("component", model.K):
            for name in ("log_cholesky", "precision", "loc"):
                if name in values:
                    pyro.sample(name, dist.Delta(values[name], event_dim=1))
        return values

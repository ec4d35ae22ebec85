"""The forms of the ELBO are one number: with the evidence, with cavi's closed form, draw by draw."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm

import guidebook as gb
from guidebook.diagnostics.measures.forms import elbo_forms, residual
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.models.mixture import GaussianMixture

X = np.array([[-3.0, -3.1], [-2.8, -3.3], [0.1, -0.4], [0.9, 0.2], [3.1, 3.4]])


def test_the_forms_agree_and_the_evidence_is_elbo_plus_kl():
    model = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.1)
    fits = {
        "cavi": gb.cavi(model, MixtureMeanField(model), {"x": X}, progress=False),
        "exact": gb.exact(model, EnumeratedMixture(model), {"x": X}),
    }
    bounds = elbo_forms(fits, "exact", draws=300)
    evidence = fits["exact"].notes["log_evidence"]
    for name, found in bounds.items():
        # draw by draw the same numbers: equal up to rounding
        assert found.energy_form.value == pytest.approx(found.data_form.value, abs=1e-8), name
        assert found.evidence_form.value == pytest.approx(found.energy_form.value, abs=1e-8)
        assert residual(found).value == pytest.approx(0.0, abs=1e-8)
        assert found.free_energy.value == -found.energy_form.value
        assert found.log_evidence.value == evidence
    assert bounds["exact"].posterior_kl.value == pytest.approx(0.0, abs=1e-8)
    assert 0 < bounds["cavi"].posterior_kl.value < 0.5


def test_the_elbo_is_the_closed_form_of_cavi_with_its_labellings():
    """Clusters far apart: assignments are certain, so that summing them out gains nothing, and the
    ELBO in one labelling is that of cavi's closed form and log 3!. 5 standard errors: 1e-6.
    """
    x = np.concatenate([X[:2] - 30, X[2:4], X[4:] + 30])
    model = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.001)
    fit = gb.cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    found = elbo_forms({"cavi": fit})["cavi"].energy_form
    closed = -fit.history[-1] + math.lgamma(4)
    assert found.value == pytest.approx(closed, abs=5 * found.se + 1e-6)


def test_models_without_discrete_sites_have_forms_too():
    pair = gb.pair("gaussian-mean")
    model, data = pair.model(), pair.data()
    fits = {
        "cavi": gb.cavi(model, pair.engines["cavi"][1](model), data, progress=False),
        "exact": gb.exact(model, pair.exact(model), data),
    }
    found = elbo_forms(fits, "exact")
    for name, one in found.items():
        off = one.evidence_form.value - one.energy_form.value
        assert abs(off) < 5 * math.hypot(one.evidence_form.se, one.energy_form.se) + 1e-6, name
        assert abs(residual(one).value) < 5 * residual(one).se + 1e-6
    assert torch.get_default_dtype() is torch.float32  # as it was


def test_a_continuous_site_that_depends_on_one_summed_out_is_in_the_prior():
    """Draw by draw log p(x | mean) is what does not depend on the label: equal up to rounding."""

    def two_sides(y):
        side = pyro.sample("side", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        mean = pyro.sample("mean", dist.Normal(2 * side - 1, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.7), obs=y)

    y = np.array([0.4, -0.2, 1.1])
    fit = gb.laplace(two_sides, {"y": y})
    mean = fit.approximation.draw(200, 0)[0][0].numpy()  # (200, 1)
    found = elbo_forms({"laplace": fit}, draws=200)["laplace"].data_term.value
    assert found == pytest.approx(norm.logpdf(y, mean, 0.7).sum(1).mean(), rel=1e-10)


def test_a_label_that_a_mask_leaves_out_is_in_no_form():
    """Rows 3 and 4 are masked: log p(x | mean) is that of the first two, with the labels summed out."""

    def mixture(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)), pyro.poutine.mask(mask=seen):
            side = pyro.sample("side", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(mean + 2 * side, 0.7), obs=y)

    y = np.array([0.4, 2.1, -1.0, 5.0])
    fit = gb.laplace(mixture, {"y": y, "seen": np.array([True, True, False, False])})
    mean = fit.approximation.draw(200, 0)[0][0].numpy()
    rows = 0.7 * norm.pdf(y[:2], mean, 0.7) + 0.3 * norm.pdf(y[:2], mean + 2, 0.7)
    found = elbo_forms({"laplace": fit}, draws=200)["laplace"].data_term.value
    assert found == pytest.approx(np.log(rows).sum(1).mean(), rel=1e-10)

"""What a fit by svi holds, its default settings and what it shows on the way."""

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

import guidebook as gb
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.protocols.mode import defaults_of
from guidebook.models.hierarchical import eight_schools
from tests.inference.svi.stories import QUIET, SCHOOLS, schools


def test_a_fit_is_a_value():
    fit = schools()
    with pytest.raises(AttributeError):
        fit.seed = 3
    assert fit.engine == "svi"
    assert fit.history.shape == (100,)
    assert fit.history.dtype == np.float64
    assert fit.seconds > 0
    assert fit.notes["steps"] == 100
    assert "Fit(svi, 3 sites" in repr(fit)


@pytest.mark.parametrize(
    ("make", "steps"),
    [(gb.guides.mean_field, 2000), (gb.guides.flow, 4000), (AutoDelta, 5000)],
)
def test_default_steps(make, steps):
    assert defaults_of(make(eight_schools)).steps == steps


def test_the_progress_bar_shows_the_objective(capsys, monkeypatch):
    gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, steps=100, compile="graph")
    assert capsys.readouterr().err == ""  # not a terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, steps=1000, compile="graph")
    assert "objective=" in capsys.readouterr().err


def test_double_and_single_precision():
    """Data alone are worked on in float64; networks in the precision they were made in."""
    fit = schools()
    assert fit.guide.center.dtype == torch.float64
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((10, 6)).round()
    for dtype in (torch.float32, torch.float64):
        model = gb.models.VAE(6, 2, (4,)).to(dtype)
        guide = AmortizedNormal(torch.nn.Linear(6, 4).to(dtype), 2)
        fit = gb.svi(model, guide, {"x": x}, steps=10, **QUIET)
        assert fit.guide.encoder.weight.dtype == dtype

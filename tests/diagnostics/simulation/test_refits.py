"""svi on all data sets in one step, against a conjugate model; what cannot be recorded runs one by one."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import guidebook as gb
from guidebook.diagnostics.simulation import refits
from guidebook.diagnostics.simulation.study import from_posterior, from_prior, thinned
from guidebook.errors import SettingError
from guidebook.inference.fits.running import counted


def test_one_recorded_step_gives_uniform_ranks_where_the_guide_holds_the_posterior(
    model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kolmogorov's test of every quantity; false-alarm rate 3 x 1e-4."""
    monkeypatch.setattr(refits, "_one_by_one", None)
    guide = gb.guides.mean_field(model)
    found = gb.calibrate(model, guide, data, replications=40, steps=200)
    assert found.engine == "svi"
    assert found.replications == 40
    for i in range(3):
        assert kstest(found.p[:, i], "uniform").pvalue > 1e-4


def test_given_the_data_the_guide_is_made_anew_for_both_data_sets(
    model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The augmented posterior has precision 3: the draws of svi's fits have its standard deviation."""
    monkeypatch.setattr(refits, "_one_by_one", None)
    fit = gb.laplace(model, data)
    study = from_posterior(model, gb.guides.mean_field(model), data, fit, 20, 0)
    with counted("test", 20, shown=False) as bar:
        spread = [
            float(one.draw(400, 0)[0].std()) for _, one, _ in refits._together(study, 0, bar, 300)
        ]
    assert len(spread) == 20
    assert sum(spread) / 20 == pytest.approx(3**-0.5, rel=0.06)


def test_a_model_that_reads_its_data_is_fitted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(n: int, y: Tensor | None = None) -> None:
        wide = y is not None and bool((y.abs() > 50).any())
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("row", n):
            pyro.sample("y", dist.Normal(mu, 9.0 if wide else 1.0), obs=y)

    data = {"n": 3, "y": torch.ones(3, dtype=torch.float64)}
    study = from_prior(reads, None, data, 20, 0)
    assert study.potential.changing == ()
    assert not torch.equal(study.potential_of(0).data["y"], study.potential_of(1).data["y"])
    monkeypatch.setattr(refits, "_one_by_one", lambda *given: iter([given[1:]]))
    assert list(refits._fits(study, gb.svi, {"steps": 9}, 3, None)) == [
        (gb.svi, {"steps": 9}, 3, None)
    ]


def test_draws_are_thinned_evenly_over_chains() -> None:
    u = torch.arange(12.0).reshape(2, 6, 1)
    assert thinned(u, 4)[:, 0].tolist() == [0.0, 4.0, 7.0, 11.0]
    assert thinned(u, 20)[:, 0].tolist() == list(range(12))


@pytest.mark.parametrize("steps", [0, 1.5])
def test_steps_out_of_range(steps: Any, model: Any, data: Any) -> None:
    with pytest.raises(SettingError, match=f"steps={steps}"):
        gb.calibrate(model, gb.guides.mean_field(model), data, replications=20, steps=steps)


def test_auto_is_what_svi_plans(model: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    monkeypatch.setattr(refits, "fit_replicas", lambda *given: planned.append(given[3]) or [])
    study = from_prior(model, gb.guides.flow(model), data, 20, 0)
    for steps in ("auto", 7):
        list(refits._together(study, 0, None, steps))
    assert planned == [gb.guides.flow(model).defaults.steps, 7]

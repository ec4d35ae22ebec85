"""Laws of the fits on a CUDA device, of every row; left out where there is none."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.programs.labels import log_labellings
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.scope import local_parameters, precision
from tests.conformance.conftest import DRAWS, Row
from tests.conformance.test_draws import few_draws, log_joint_of, tolerance_of

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def there(row: Row) -> gb.Fit:
    return row.fitted(device=DEVICE)


@pytest.fixture(scope="module")
def trained_there(trained: gb.Fit, there: gb.Fit) -> gb.Fit:
    return there


def test_parameters_stay_on_the_device(trained_there: gb.Fit) -> None:
    for parameter in parameters_of(trained_there.model, trained_there.guide):
        assert parameter.device.type == DEVICE


def test_the_recorded_step_is_that_of_pyro(row: Row, trained_there: gb.Fit) -> None:
    """Objective of the first steps on the device, under the same random numbers of the device."""
    reference = row.fitted(steps=3, compile=False, device=DEVICE)
    assert [f.notes["path"] for f in (trained_there, reference)] == ["captured", "reference"]
    single = dtype_of(trained_there.model, trained_there.guide) is torch.float32
    np.testing.assert_allclose(
        trained_there.history[:3], reference.history, rtol=1e-4 if single else 1e-9
    )


def test_ascent_is_that_of_the_cpu(ascended: gb.Fit, there: gb.Fit) -> None:
    """EM and CAVI from their starts, which scikit-learn makes on the CPU: the same passes."""
    count = min(len(ascended.history), len(there.history), 5)
    np.testing.assert_allclose(there.history[:count], ascended.history[:count], rtol=1e-6)


def test_loaded_on_the_cpu_lp_is_that_of_the_device(
    row: Row, there: gb.Fit, tmp_path: Path
) -> None:
    """Pyro's own sum on the CPU over the model as saved, against lp as the device computed it."""
    path = there.save(tmp_path / "fit")
    model = gb.pair(row.pair).model() if row.engine == "svi" else on_the_cpu(there.model)
    ours = getattr(there.guide, "family", "") != "" and row.engine == "svi"
    given = None if ours or there.guide is None else row.guide(model)
    again = gb.load(path, model=model, guide=given, data=row.data)
    tolerance = tolerance_of(again)
    for found, _, values in few_draws(again, there.posterior(DRAWS, seed=1)):
        with local_parameters(), precision(again.potential.dtype), torch.no_grad():
            expected = log_joint_of(again.model, values, again.potential.data)
        expected = float(expected) + log_labellings(again.model)
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert (
        again.posterior(DRAWS, seed=1)["posterior"].sizes
        == there.posterior(DRAWS)["posterior"].sizes
    )


def on_the_cpu(model: Any) -> Any:
    return copy.deepcopy(model).cpu() if isinstance(model, torch.nn.Module) else model


def test_a_page(row: Row, there: gb.Fit, tmp_path: Path) -> None:
    """A comparison on the device ends with a verdict and a page."""
    if row.pair not in ("eight-schools", "vae", "gaussian-mixture", "hopfield"):
        pytest.skip("one pair of each kind")
    comparison = gb.compare({row.way: there})
    comparison.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def _engines(data: dict[str, Any]) -> dict[str, gb.Fit]:
    model = gb.pair("eight-schools").model()
    guide = gb.guides.mean_field(model)
    return {
        "nuts": gb.nuts(model, data, draws=500, tune=500, progress=False),
        "laplace": gb.laplace(model, data),
        "pathfinder": gb.pathfinder(model, data, progress=False),
        "svgd": gb.svgd(model, data, steps=200, particles=50, progress=False),
        "restarts": gb.svi(model, guide, data, restarts=4, progress=False),
    }


def test_engines_of_any_continuous_model(tmp_path: Path) -> None:
    """Each gives the posterior of the CPU, by mean and deviation of mu, and all a page."""
    data = gb.pair("eight-schools").data()
    here = _engines(data)
    fits = _engines({n: torch.as_tensor(v, device=DEVICE) for n, v in data.items()})
    for name, fit in fits.items():
        mu, its = (f.posterior(500)["posterior"]["mu"] for f in (fit, here[name]))
        spread = float(its.std())
        assert abs(float(mu.mean()) - float(its.mean())) < 0.4 * spread, name
        assert 0.6 < float(mu.std()) / spread < 1.6, name
    gb.compare(fits).to_html(tmp_path / "page.html")


def test_a_fit_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Half of the steps, then the others: the history of one fit of all of them."""
    pair = gb.pair("eight-schools")
    data = {name: torch.as_tensor(value, device=DEVICE) for name, value in pair.data().items()}

    def fit(checkpoint: Path | None) -> gb.Fit:
        model = pair.model()
        guide = gb.guides.mean_field(model)
        return gb.svi(model, guide, data, steps=300, checkpoint=checkpoint, progress=False)

    whole, path = fit(None), tmp_path / "fit.checkpoint"
    np.testing.assert_array_equal(fit(path).history, whole.history)
    np.testing.assert_array_equal(fit(path).history, whole.history)  # read, nothing left to do

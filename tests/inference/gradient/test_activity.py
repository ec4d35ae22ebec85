"""Collapse while a fit runs: the bar, the note, one warning with its remedy, and no random number."""

import warnings

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.amortized.collapse import collapse
from guidebook.guides import AmortizedNormal
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.inference.gradient import activity as live
from guidebook.models import VAE
from guidebook.models.decoders.networks import mlp

N, P, D = 300, 6, 2


def data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator) @ torch.randn(D, P, generator=generator)
    return {"x": x + 0.3 * torch.randn(N, P, generator=generator)}


def trained(scale: float, steps: int = 800, **settings) -> gb.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(P, D, (16,), likelihood="gaussian", scale=scale)
        guide = AmortizedNormal(mlp((P, 16, 2 * D)), D)
    settings = {"compile": "graph", "progress": False, "batch_size": 100} | settings
    return gb.svi(model, guide, data(), steps=steps, **settings)


@pytest.mark.parametrize("compile", ["graph", False])
def test_a_collapsed_fit_warns_once_and_names_the_remedy(compile) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = trained(100.0, compile=compile)
    (said,) = caught
    assert said.category is UserWarning and said.filename == __file__.replace("\\", "/")
    for word in ("none of 2", "BetaELBO", "warm-up", "smaller decoder", "smaller fixed scale"):
        assert word in str(said.message)
    assert fit.notes["active_dimensions"] == [0, 2]


def test_a_healthy_one_does_not_and_the_note_is_that_of_the_diagnostic(tmp_path) -> None:
    fit = trained(0.3)
    assert fit.notes["active_dimensions"] == [2, 2] and "collapsed" not in fit.notes
    assert collapse(fit).active.sum() == 2
    fit.save(tmp_path / "fit.pt")


def test_a_fit_of_no_training_is_no_collapse() -> None:
    assert "collapsed" not in trained(0.3, steps=1).notes


def test_nothing_is_said_of_one_row_equal_rows_or_codes() -> None:
    for x in (data()["x"][:1], torch.zeros(8, P)):
        model = VAE(P, D, (8,), likelihood="gaussian", scale=100.0)
        guide = AmortizedNormal(mlp((P, 2 * D)), D)
        fit = gb.svi(model, guide, {"x": x}, steps=100, compile="graph", progress=False)
        assert "active_dimensions" not in fit.notes
    model = VAE(P, D, (8,), likelihood="gaussian", scale=1.0, prior_scale=None)
    codes = AmortizedDelta(mlp((P, D)), D)
    fit = gb.svi(model, codes, data(), steps=20, compile="graph", progress=False)
    assert "active_dimensions" not in fit.notes


@pytest.mark.parametrize("compile", ["graph", False])
def test_the_bar_shows_it_and_the_fit_is_the_same(compile, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    looks = []
    monkeypatch.setattr(
        live, "activity", lambda *given, real=live.activity: looks.append(real(*given)) or looks[-1]
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    quiet = trained(0.3, steps=300, compile=compile)
    assert looks == []
    shown = trained(0.3, steps=300, compile=compile, progress=True)
    assert len(looks) >= 5 and {one.total for one in looks} == {2}
    assert f"active={looks[-1].active}/2" in capsys.readouterr().err
    np.testing.assert_array_equal(quiet.history, shown.history)
    for a, b in zip(quiet.guide.parameters(), shown.guide.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_looks_take_a_hundredth_of_the_time(monkeypatch) -> None:
    """After a look of t seconds the next one is 100 t later at the earliest, and 2 s at least."""
    clock, looks = [0.0], []

    def slow(*given) -> live.Activity:
        looks.append(clock[0])
        clock[0] += 0.1
        return live.Activity(1, 2, 1.0)

    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live, "activity", slow)
    look = live.watch(None, lambda: None, lambda step: {"x": 0})
    while clock[0] < 40.0:
        said = look()
        clock[0] += 0.01
    assert said == "1/2" and len(looks) == 4
    assert min(np.diff(looks)) >= 10.0

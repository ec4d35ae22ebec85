"""What holds of every program of the list, whatever of Pyro it uses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import guidebook as gb
from guidebook.errors import GuidebookError
from tests.programs.laws.conftest import DRAWS, Ours, as_pyro_has_them
from tests.programs.laws.program import Program
from tests.programs.laws.pyros_own import PyrosOwn
from tests.reports.reader import Reader

Draws = list[dict[str, torch.Tensor]]


def tolerance(program: Program) -> float:
    return 1e-5 if program.single else 1e-9


def test_it_is_captured_takes_the_reference_path_or_is_refused_as_the_table_says(
    program: Program, ours: Ours
) -> None:
    if program.how == "refused":
        assert program.words and program.words in str(ours.error)
        return
    if ours.error is not None:
        raise ours.error
    assert ours.fit is not None and ours.fit.notes["path"] == program.how
    told = [message for message in ours.told if message.startswith("svi runs by")]
    assert len(told) == (program.how == "reference")
    assert program.words in "".join(told)


def test_its_steps_are_those_of_pyro(program: Program, fit: gb.Fit, request: Any) -> None:
    pyros: PyrosOwn = request.getfixturevalue("pyros")
    near = tolerance(program)
    np.testing.assert_allclose(fit.history, pyros.losses, rtol=near, atol=near)


def test_the_loop_in_c_takes_its_steps(program: Program, fit: gb.Fit, in_a_loop: gb.Fit) -> None:
    """To what sums in another order leave."""
    if not in_a_loop.notes.get("native"):
        pytest.skip("no loop does what its step does, or it is not captured")
    near = 1e-4 if program.single else 1e-7
    np.testing.assert_allclose(in_a_loop.history, fit.history, rtol=near, atol=near)


def test_its_log_joint_is_that_of_pyros_trace(
    program: Program, pyros: PyrosOwn, fit: gb.Fit, tree: xr.DataTree, draws: Draws
) -> None:
    expected = [pyros.log_joint(one) for one in draws]
    near = tolerance(program)
    np.testing.assert_allclose(tree["sample_stats"]["lp"][0], expected, rtol=near, atol=near)


def test_its_log_q_is_that_of_pyros_trace(
    program: Program, pyros: PyrosOwn, fit: gb.Fit, tree: xr.DataTree, draws: Draws
) -> None:
    """Where the guide has the sites themselves: not one vector for all, nor a point."""
    expected = [pyros.log_q(one) for one in draws]
    if None in expected or "log_q" not in tree["sample_stats"]:
        pytest.skip("no density, or one of auxiliary sites")
    near = tolerance(program)
    np.testing.assert_allclose(tree["sample_stats"]["log_q"][0], expected, rtol=near, atol=near)


def test_laplace_runs_on_it(program: Program, at_mode: gb.Fit) -> None:
    stats = at_mode.posterior(DRAWS, seed=1)["sample_stats"]
    assert np.isfinite(stats["lp"]).all() and np.isfinite(stats["log_q"]).all()


def test_its_log_likelihood_is_that_of_pyros_trace(
    program: Program, pyros: PyrosOwn, fit: gb.Fit, tree: xr.DataTree, draws: Draws
) -> None:
    """Of every observed value without its plate's scale; where sites are summed out, of every observed
    site given those before it.
    """
    near = tolerance(program)
    found = tree["log_likelihood"].data_vars if "log_likelihood" in tree.children else {}
    for i, one in enumerate(draws):
        expected = pyros.log_likelihood(one)
        assert set(found) == set(expected)
        for name, value in expected.items():
            ours = found[name].values[0, i]
            ours = ours if program.plates is None else ours.sum()
            np.testing.assert_allclose(ours, value, rtol=near, atol=near, err_msg=name)


def test_its_judgement_is_a_verdict_with_a_reason(
    program: Program, fit: gb.Fit, comparison: gb.Comparison
) -> None:
    row = comparison.table.loc["fit"]
    assert row["verdict"] in ("trust", "reweight", "reject")
    assert comparison.verdicts["fit"].value == row["verdict"]
    assert row["reason"].strip()


def test_its_page_names_its_sites(
    program: Program, fit: gb.Fit, comparison: gb.Comparison, tmp_path: Path
) -> None:
    page = Reader(comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [page.tags.count(tag) for tag in ("html", "head", "title", "body")] == [1, 1, 1, 1]
    assert comparison.table.loc["fit"]["verdict"] in page.text
    for site in fit.sites:
        assert site.name in page.text


def test_nuts_draws_have_the_log_joint_of_pyros_trace(
    program: Program, pyros: PyrosOwn, fit: gb.Fit, sampled: gb.Fit | GuidebookError
) -> None:
    if isinstance(sampled, GuidebookError):
        assert program.unsampled and program.unsampled in str(sampled)
        return
    assert not program.unsampled
    tree = sampled.posterior()
    lp = tree["sample_stats"]["lp"].values[0]
    assert np.isfinite(lp).all()
    expected = [pyros.log_joint(one) for one in as_pyro_has_them(program, sampled, tree)]
    near = tolerance(program)
    np.testing.assert_allclose(lp, expected, rtol=near, atol=near)

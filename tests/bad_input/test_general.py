"""Bad input gets one clear error that names cause and remedy, and leaves nothing half-written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_base import from_dict

import guidebook as gb
from guidebook.__main__ import main
from guidebook.errors import (
    DataError,
    FileError,
    GuidebookError,
    GuideError,
    ModelError,
    NameNotFound,
    SettingError,
)

SCHOOLS = {
    "y": torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "sigma": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]),
}


def model(y: Any = None, sigma: Any = None) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones(())))
    with pyro.plate("school", len(sigma)):
        pyro.sample("y", dist.Normal(mu, sigma + tau), obs=y)


def fixed(y: Any = None) -> None:
    pyro.sample("y", dist.Normal(torch.zeros(()), 1.0).expand([8]).to_event(1), obs=y)


def counts(y: Any = None) -> None:
    rate = pyro.sample("rate", dist.Exponential(torch.ones(())))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def discrete(y: Any = None) -> None:
    kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.5)))
    pyro.sample("y", dist.Normal(kind, 1.0), obs=y)


def scale() -> Any:
    return pyro.param("s", lambda: torch.tensor(1.0), constraint=dist.constraints.positive)


def without_tau(y: Any = None, sigma: Any = None) -> None:
    pyro.sample("mu", dist.Normal(pyro.param("m", lambda: torch.tensor(0.0)), scale()))


def one_too_many(y: Any = None, sigma: Any = None) -> None:
    without_tau()
    pyro.sample("tau", dist.LogNormal(torch.zeros(()), scale()))
    pyro.sample("omega", dist.Normal(torch.zeros(()), scale()))


def wrong_shape(y: Any = None, sigma: Any = None) -> None:
    pyro.sample("mu", dist.Normal(torch.zeros(3), scale()).to_event(1))
    pyro.sample("tau", dist.LogNormal(torch.zeros(()), scale()))


def wrong_support(y: Any = None, sigma: Any = None) -> None:
    without_tau()
    pyro.sample("tau", dist.Normal(torch.tensor(-50.0), scale()))


def fit(story: Any = model, guide: Any = None, data: Any = None, **settings: Any) -> gb.Fit:
    guide = gb.guides.mean_field(story) if guide is None else guide
    options = {"steps": 20, "compile": "graph", "progress": False} | settings
    return gb.svi(story, guide, SCHOOLS if data is None else data, **options)


def spoilt(name: str, index: int, value: float) -> dict[str, torch.Tensor]:
    copy = {k: v.clone() for k, v in SCHOOLS.items()}
    copy[name][index] = value
    return copy


ROWS: list[tuple[str, Callable[[], Any], type[GuidebookError], str]] = [
    (
        "NaN in the data",
        lambda: fit(data=spoilt("y", 3, np.nan)),
        DataError,
        r"'y' holds NaN at index \(3,\).*impute",
    ),
    (
        "infinite data",
        lambda: fit(data=spoilt("sigma", 5, np.inf)),
        DataError,
        r"'sigma' holds inf at index \(5,\)",
    ),
    ("NaN for nuts", lambda: gb.nuts(model, spoilt("y", 0, np.nan)), DataError, r"index \(0,\)"),
    (
        "NaN for laplace",
        lambda: gb.laplace(model, spoilt("y", 0, np.nan)),
        DataError,
        r"index \(0,\)",
    ),
    (
        "guide without a site",
        lambda: fit(guide=without_tau),
        GuideError,
        r"no site for 'tau'.*same name",
    ),
    (
        "guide with one too many",
        lambda: fit(guide=one_too_many),
        GuideError,
        r"'omega'.*not a latent site.*Remove",
    ),
    (
        "guide of another shape",
        lambda: fit(guide=wrong_shape),
        GuideError,
        r"'mu'.*\(3,\).*\(\).*plates",
    ),
    (
        "guide outside the support",
        lambda: fit(guide=wrong_support),
        GuideError,
        r"'tau'.*support.*LogNormal",
    ),
    (
        "empty data",
        lambda: fit(data={"y": torch.zeros(0), "sigma": torch.zeros(0)}),
        DataError,
        r"empty.*at least one row",
    ),
    (
        "no latent site",
        lambda: fit(fixed, data={"y": torch.zeros(8)}),
        ModelError,
        r"no (continuous )?latent",
    ),
    (
        "no latent site, nuts",
        lambda: gb.nuts(fixed, {"y": torch.zeros(8)}),
        ModelError,
        r"no latent",
    ),
    (
        "discrete latent",
        lambda: fit(discrete, data={"y": torch.zeros(())}),
        ModelError,
        r"'kind' is discrete.*[Ee]numerate",
    ),
    (
        "observation outside its support",
        lambda: fit(counts, data={"y": torch.tensor([1.0, -2.0])}),
        GuidebookError,
        r"support|within",
    ),
    ("data not a dict", lambda: fit(data=torch.zeros(3)), DataError, r"must be a dict.*not Tensor"),
    (
        "misspelt data",
        lambda: fit(data={"y": SCHOOLS["y"], "sigm": SCHOOLS["sigma"]}),
        DataError,
        r"'sigm'.*Did you mean sigma",
    ),
    (
        "shapes that do not fit",
        lambda: fit(data={"y": torch.zeros(5), "sigma": torch.ones(8)}),
        GuidebookError,
        r"shape|size",
    ),
    ("unknown pair", lambda: gb.pair("eigth-schools"), NameNotFound, r"eight-schools"),
    ("steps 0", lambda: fit(steps=0), SettingError, r"steps=0 is out of range.*>= 1"),
    ("steps a float", lambda: fit(steps=10.5), SettingError, r"steps=10.5"),
    ("seed -1", lambda: fit(seed=-1), SettingError, r"seed=-1 is out of range"),
    ("restarts 0", lambda: fit(restarts=0), SettingError, r"restarts=0"),
    (
        "unknown device",
        lambda: fit(device="abacus"),
        SettingError,
        r"device='abacus' cannot be used.*cpu",
    ),
    ("device that is not there", lambda: fit(device="cuda:99"), SettingError, r"cuda:99"),
    ("unknown compile", lambda: fit(compile="fast"), SettingError, r"compile='fast' is unknown"),
    (
        "batch of 0",
        lambda: gb.svi(*logistic(), batch_size=0),
        SettingError,
        r"batch_size=0.*1 to 20",
    ),
    (
        "batch larger than the data",
        lambda: gb.svi(*logistic(), batch_size=21),
        SettingError,
        r"batch_size=21.*1 to 20",
    ),
    (
        "batches of a model without size",
        lambda: fit(batch_size=4),
        SettingError,
        r"size=None.*plate",
    ),
    ("draws 0", lambda: fit().posterior(0), SettingError, r"draws=0"),
    ("rank 0", lambda: gb.guides.low_rank(model, rank=0), GuideError, r"rank must be at least 1"),
    ("nuts without draws", lambda: gb.nuts(model, SCHOOLS, draws=0), SettingError, r"draws=0"),
    (
        "a guide that is not the posterior",
        lambda: gb.exact(model, gb.guides.mean_field(model), SCHOOLS),
        GuideError,
        r"not the posterior.*svi",
    ),
    ("nothing to compare", lambda: gb.compare({}), DataError, r"at least one"),
    (
        "no draws to compare",
        lambda: gb.compare({"a": 3}),
        DataError,
        r"'a' is neither a Fit nor a DataTree",
    ),
    (
        "unknown reference",
        lambda: gb.compare({"mean-field": 3}, reference="mean-feld"),
        NameNotFound,
        r"mean-field",
    ),
    (
        "other parameters",
        lambda: gb.compare({"a": tree(x=2), "b": tree(z=2)}),
        DataError,
        r"share no parameter.*'x'.*'z'",
    ),
    (
        "other shapes",
        lambda: gb.compare({"a": tree(x=2), "b": tree(x=3)}),
        DataError,
        r"'x' has shape \(3,\) in 'b'",
    ),
    (
        "draws that are not finite",
        lambda: gb.compare({"a": tree(x=2, value=np.nan)}),
        DataError,
        r"draws of 'x' are not all finite",
    ),
]


def logistic() -> tuple[Any, Any, dict[str, Any]]:
    from guidebook.models import logistic_regression

    data = {
        "X": torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        "y": torch.ones(20),
    }
    return logistic_regression, gb.guides.mean_field(logistic_regression), data


def tree(value: float = 0.0, **sizes: int) -> Any:
    rng = np.random.default_rng(0)
    return from_dict(
        {"posterior": {n: value + rng.normal(size=(1, 100, s)) for n, s in sizes.items()}}
    )


@pytest.mark.parametrize(("call", "kind", "words"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_one_clear_error(call: Any, kind: type[GuidebookError], words: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert re.search(words, message, re.DOTALL), message
    assert len(message) < 1000


@pytest.mark.parametrize("name", ["svl", "guide", "lapace"])
def test_an_unknown_name_of_the_front_door_names_the_near_ones(name: str) -> None:
    with pytest.raises(AttributeError, match="Did you mean"):
        getattr(gb, name)


def test_an_unknown_guide_names_the_near_ones(capsys: Any, tmp_path: Path) -> None:
    code = main(
        ["report", "eight-schools", "--guides", "mean-feld", "--out", str(tmp_path / "out")]
    )
    assert code == 2 and "mean-field" in capsys.readouterr().err


# files -------------------------------------------------------------------------------------------


def test_draws_without_densities_are_compared_and_the_missing_named() -> None:
    found = gb.compare({"a": tree(x=2)}, reference=tree(x=2))
    said = " ".join(found.witnesses["a"])
    assert "no lp" in said and "no log_q" in said and "gradients" in said
    assert np.isfinite(found.table.loc["a", "mean_error"])


@pytest.mark.parametrize("content", [b"", b"not a file of ours", b"\x89HDF\r\n\x1a\n truncated"])
def test_foreign_files(content: bytes, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FileError, match="truncated or foreign"):
        gb.load(path)
    with pytest.raises(FileError, match="truncated or foreign"):
        fit(checkpoint=path)
    assert path.read_bytes() == content
    assert main(["compare", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_truncated_files(tmp_path: Path, capsys: Any) -> None:
    one = fit()
    saved = one.save(tmp_path / "fit")
    saved.write_bytes(saved.read_bytes()[:-200])
    with pytest.raises(FileError, match="truncated or foreign"):
        gb.load(saved)
    drawn = tmp_path / "draws.nc"
    one.posterior(50).to_netcdf(drawn, engine="h5netcdf")
    drawn.write_bytes(drawn.read_bytes()[:2000])
    assert main(["compare", str(drawn)]) == 2
    assert "draws.nc" in capsys.readouterr().err


def test_a_newer_format(tmp_path: Path) -> None:
    torch.save({"format": "guidebook fit 99"}, tmp_path / "fit")
    with pytest.raises(FileError, match=r"format 'guidebook fit 99'.*install"):
        gb.load(tmp_path / "fit")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is not there"):
        gb.load(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    one = fit()
    for write in (
        lambda: one.save(blocker / "fit"),
        lambda: gb.compare({"a": one}).to_html(blocker / "page.html"),
        lambda: fit(checkpoint=blocker / "checkpoint"),
    ):
        with pytest.raises(FileError):
            write()
    assert main(["report", "eight-schools", "--out", str(blocker / "out"), "--quick"]) == 2
    assert list(tmp_path.iterdir()) == [blocker]


def test_a_checkpoint_of_another_fit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    fit(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"belongs to another fit.*differs in.*seed.*remove"):
        fit(checkpoint=path, seed=1)
    with pytest.raises(FileError, match=r"belongs to another fit"):
        fit(checkpoint=path, guide=gb.guides.full_rank(model))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

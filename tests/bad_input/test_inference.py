"""Bad input to engines and to the files of fits; degenerate data, which have an answer."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray as xr

import guidebook as gb
from guidebook.errors import DataError, FileError, GuidebookError, GuideError, SettingError
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.models.mixture import GaussianMixture
from tests.bad_input.conftest import Bad
from tests.bad_input.given import (
    ENGINES,
    IMAGE,
    PATHS,
    POINTS,
    SCHOOLS,
    SEEDS,
    SHELF,
    N,
    P,
    X,
    by_another_hand,
    by_hand,
    discrete,
    fit,
    growth,
    hundred,
    logistic,
    masking,
    mixture_fit,
    one_fit,
    rivals,
    schools,
    shelf_fit,
    spoilt,
    vae,
    with_needed,
)

NAN, INF = float("nan"), float("inf")
DATA: dict[str, Bad] = {
    "NaN in the data": (
        lambda: fit(data=spoilt("y", 3, NAN)), DataError, r"'y' holds NaN at index \(3,\)", "impute",
    ),
    "infinite data": (
        lambda: fit(data=spoilt("sigma", 5, INF)), DataError, r"'sigma' holds inf at index \(5,\)",
    ),
    "NaN for nuts": (
        lambda: gb.nuts(schools, spoilt("y", 0, NAN)), DataError, r"index \(0,\)", "impute",
    ),
    "NaN for laplace": (
        lambda: gb.laplace(schools, spoilt("y", 0, NAN)), DataError, r"index \(0,\)", "impute",
    ),
    "empty data": (
        lambda: fit(data={"y": torch.zeros(0), "sigma": torch.zeros(0)}), DataError,
        "empty", "at least one row",
    ),
    "data not a dict": (
        lambda: fit(data=torch.zeros(3)), DataError, "must be a dict", "not Tensor",
    ),
    "misspelt data": (
        lambda: fit(data={"y": SCHOOLS["y"], "sigm": SCHOOLS["sigma"]}), DataError,
        "'sigm'", "Did you mean sigma",
    ),
    "shapes that do not fit": (
        lambda: fit(data={"y": torch.zeros(5), "sigma": torch.ones(8)}), GuidebookError, "shape|size",
    ),
}  # fmt: skip

Y, SIGMA = (SCHOOLS[name].double() for name in ("y", "sigma"))
TABLE = pd.DataFrame({"y": Y.numpy(), "sigma": SIGMA.numpy()})
HELD: dict[str, tuple[Any, ...]] = {
    "a masked array": (np.ma.masked_less(Y.numpy(), 0), "'y' is a masked array", r"y\.compressed\(\)"),
    "a sparse tensor": (Y.to_sparse(), "sparse tensor", r"y\.to_dense\(\)"),
    "a sparse matrix": (scipy.sparse.csr_array(Y.numpy()[None]), "sparse matrix", r"y\.toarray\(\)"),
    "None among numbers": ([*Y.tolist()[:7], None], r"holds None at index \(7,\)", "mask it"),
    "objects, some of them no numbers": (
        np.array([*Y.tolist()[:7], "12?"], dtype=object), r"holds '12\?' at index \(7,\)", "mask it",
    ),
    "numbers beyond 64 bits": (np.full(8, 2**63, np.uint64), r"below 2\^63"),
    "a column of words": (pd.Series(list("abcdefgh")), "'y' holds 'a'", "factorize"),
    "categories": (pd.Series(list("aabbaabb"), dtype="category"), "'y' holds 'a'", "factorize"),
    "dates": (pd.Series(pd.date_range("2020-01-01", periods=8)), "dates or times", "dt.days"),
    "a column with a missing value": (
        TABLE["y"].where(TABLE["y"] > -3), r"'y' holds NaN at index \(2,\)", "mask it",
    ),
    "whole numbers with a missing value": (
        TABLE["y"].astype("Int64").where(TABLE["y"] > -3), r"'y' holds NaN at index \(2,\)", "mask it",
    ),
    "words in xarray": (xr.DataArray(list("abcdefgh")), "'y' holds", "factorize"),
    "a NaN of bfloat16": (spoilt("y", 3, NAN)["y"].bfloat16(), r"'y' holds NaN at index \(3,\)", "mask it"),
    "a big-endian NaN": (
        spoilt("y", 3, NAN)["y"].numpy().astype(">f8"), r"'y' holds NaN at index \(3,\)", "mask it",
    ),
    "a list with a NaN": ([*Y.tolist()[:7], NAN], r"'y' holds NaN at index \(7,\)", "mask it"),
}  # fmt: skip
DATA |= {
    f"{name}, {engine}": (
        lambda y=y, run=run: run({"y": y, "sigma": SIGMA}), DataError, *words,
    )
    for name, (y, *words) in HELD.items()
    for engine, run in (
        ("svi", lambda data: fit(data=data)),
        ("nuts", lambda data: gb.nuts(schools, data)),
        ("laplace", lambda data: gb.laplace(schools, data)),
    )
}  # fmt: skip
DATA |= {
    "a table with a column too many": (
        lambda: fit(data=TABLE.assign(town="x")), DataError, "'town'", r"Choose the columns: data\[\[",
    ),
    "a table with a column missing": (
        lambda: fit(with_needed, data=TABLE[["y"]]), DataError, r"needs \['sigma'\]",
    ),
    "a table with two columns of a name": (
        lambda: fit(data=TABLE.set_axis(["y", "y"], axis=1)), DataError, "several columns", "rename",
    ),
    "a table with a missing value": (
        lambda: fit(data=TABLE.where(TABLE["sigma"] > 9)), DataError, r"NaN at index \(4,\)", "mask it",
    ),
    "columns in another order": (
        lambda: fit(data={"y": TABLE["y"], "sigma": TABLE["sigma"].sort_values()}), DataError,
        "same labels in another order", "reindex_like",
    ),
    "three positional arguments for two": (
        lambda: fit(data=(Y, SIGMA, 1.0)), DataError, "3 positional", r"\['y', 'sigma'\]",
    ),
    "a list of positional arguments": (
        lambda: fit(data=[Y, SIGMA]), DataError, "not list", "a tuple of its positional",
    ),
    "an argument called model": (
        lambda: fit(growth, data={"model": Y}), DataError, "argument 'model'", "rename it",
    ),
    "an argument called guide": (
        lambda: gb.nuts(rivals, {"guide": Y}), DataError, "argument 'guide'", "rename it",
    ),
    "infinite, masked as if NaN": (
        lambda: fit(masking, data={"y": torch.where(Y < 0, INF, Y)}), DataError, "'y' holds inf", "mask",
    ),
    "batches that are arrays": (
        lambda: fit(data=[Y, Y], size=16), DataError, "Batch 1 of pass 1", "is a Tensor", "dict",
    ),
}  # fmt: skip

SETTINGS: dict[str, Bad] = {
    **{
        f"a seed that is {name}, {engine}": (
            lambda seed=seed, run=run: run(seed), SettingError, "seed=", "whole number",
        )
        for name, seed in SEEDS.items()
        for engine, run in (
            ("svi", lambda seed: fit(seed=seed)),
            ("nuts", lambda seed: gb.nuts(schools, SCHOOLS, seed=seed)),
            ("laplace", lambda seed: gb.laplace(schools, SCHOOLS, seed=seed)),
            ("posterior", lambda seed: one_fit().posterior(10, seed)),
        )
    },
    **{
        f"more than memory holds: {name}": (call, SettingError, "=1000000000 ", "at most 20,000,000")
        for name, call in {
            "steps": lambda: fit(steps=10**9),
            "draws": lambda: one_fit().posterior(10**9),
            "draws of nuts": lambda: gb.nuts(schools, SCHOOLS, draws=10**9),
            "draws of gibbs": lambda: gb.gibbs(schools, by_hand, SCHOOLS, draws=10**9),
            "paths": lambda: gb.pathfinder(schools, SCHOOLS, paths=10**9),
            "draws of a path": lambda: gb.pathfinder(schools, SCHOOLS, elbo_draws=10**9),
        }.items()
    },
    "more than memory holds: paths of 100 dimensions": (
        lambda: gb.pathfinder(hundred, {"y": np.zeros(100)}, paths=10**6),
        SettingError, "1,000,000 normals of 100 dimensions", "81 GB", "paths=99,009",
    ),
    "more than memory holds: particles": (
        lambda: gb.svgd(schools, SCHOOLS, particles=10**9),
        SettingError, "particles=1000000000", "8,000,000,000 GB", "at most 20,000",
    ),
    "more than memory holds: restarts": (
        lambda: fit(steps=2000, restarts=10**9), SettingError, "restarts=1000000000", "at most 10,000",
    ),
    **{
        f"{draws} draws": (
            lambda draws=draws: one_fit().posterior(draws), SettingError, f"draws={draws!r}", "whole number",
        )
        for draws in (-1, 1.5, None, True, "10")
    },
    "steps 0": (lambda: fit(steps=0), SettingError, "steps=0 is out of range", ">= 1"),
    "steps a float": (lambda: fit(steps=10.5), SettingError, "steps=10.5", "whole number"),
    "seed -1": (lambda: fit(seed=-1), SettingError, "seed=-1 is out of range", ">= 0"),
    "restarts 0": (lambda: fit(restarts=0), SettingError, "restarts=0", ">= 1"),
    "unknown device": (
        lambda: fit(device="abacus"), SettingError, "device='abacus' cannot be used", "cpu",
    ),
    "device that is not there": (lambda: fit(device="cuda:99"), SettingError, "cuda:99"),
    "unknown compile": (
        lambda: fit(compile="fast"), SettingError, "compile='fast' is unknown", "'auto'",
    ),
    "batch of 0": (
        lambda: gb.svi(*logistic(), batch_size=0), SettingError, "batch_size=0", "1 to 20",
    ),
    "batch larger than the data": (
        lambda: gb.svi(*logistic(), batch_size=21), SettingError, "batch_size=21", "1 to 20",
    ),
    "batches of a model without size": (
        lambda: fit(batch_size=4), SettingError, "size=None", "plate",
    ),
    "a batch larger than the data, images": (
        lambda: vae(batch_size=N + 1), SettingError, f"batch_size={N + 1}", f"1 to {N}",
    ),
    "a batch of none, images": (
        lambda: vae(batch_size=0), SettingError, "batch_size=0", f"1 to {N}",
    ),
    "draws 0": (lambda: one_fit().posterior(0), SettingError, "draws=0", ">= 1|at least 1"),
    "nuts without draws": (
        lambda: gb.nuts(schools, SCHOOLS, draws=0), SettingError, "draws=0", "whole number >= 4",
    ),
}  # fmt: skip

OBJECTIVES: dict[str, Bad] = {
    "temperature 0": (
        lambda: discrete(objective=RelaxedELBO(0.0)), SettingError, "temperature is 0.0",
        "no gradient: give 0.5",
    ),
    "a temperature that reaches 0": (
        lambda: discrete(objective=RelaxedELBO(linear(1.0, 0.0))), SettingError,
        "along its schedule", "above 0",
    ),
    "a temperature below 0": (
        lambda: discrete(objective=RelaxedELBO(-1.0)), SettingError, "-1.0", "above 0",
    ),
    "an exponential schedule to 0": (
        lambda: discrete(objective=RelaxedELBO(exponential(1.0, 0.0))), SettingError,
        "exponential schedule", "positive numbers",
    ),
    "beta below 0": (
        lambda: vae(objective=BetaELBO(-1.0)), SettingError, "beta is -1.0", "at least 0",
    ),
    "beta that is no number": (
        lambda: vae(objective=BetaELBO(NAN)), SettingError, "beta is nan", "finite number",
    ),
    "a schedule of beta below 0": (
        lambda: vae(objective=BetaELBO(linear(-1.0, 1.0))), SettingError, "along its schedule",
        "at least 0",
    ),
    "beta below 0, relaxed": (
        lambda: discrete(objective=RelaxedELBO(0.5, beta=-2.0)), SettingError, "beta is -2.0",
        "at least 0",
    ),
    "reconstruction below 0": (
        lambda: vae(objective=BetaELBO(reconstruction=-1.0)), SettingError, "reconstruction is -1",
        "at least 0",
    ),
    "no particles": (
        lambda: vae(objective=ImportanceWeightedELBO(0)), SettingError, "particles=0", "whole number >= 1",
    ),
    "half a particle": (
        lambda: vae(objective=ImportanceWeightedELBO(0.5)), SettingError, "particles=0.5", "whole",  # type: ignore[arg-type]
    ),
    "a gradient of another name": (
        lambda: vae(objective=ImportanceWeightedELBO(5, "triply")), SettingError, "triply",  # type: ignore[arg-type]
        "'doubly'",
    ),
    "a categorical guide and a gradient that it has not": (
        lambda: discrete(objective=BetaELBO()), GuideError, "no gradient", "use RelaxedELBO",
    ),
    "a normal guide to relax": (
        lambda: vae(objective=RelaxedELBO(0.5)), GuideError, "no one-hot|Normal", "OneHotCategorical",
    ),
}  # fmt: skip

FOREIGN = ("empty", "foreign", "hdf5")
FILES: dict[str, Bad] = {
    **{
        f"{what}, a path that is {name}": (
            lambda path=path, call=call: call(path), FileError, "no path of a file", "pathlib.Path",
        )
        for name, path in PATHS.items()
        for what, call in (
            ("saving", lambda path: one_fit().save(path)),
            ("loading", lambda path: gb.load(path)),
            *([("checkpoint", lambda path: fit(checkpoint=path))] if path is not None else []),
        )
    },
    **{
        f"to load, {name}": (
            lambda here, name=name: gb.load(here / name), FileError, name, "truncated or of another kind"
        )
        for name in (*FOREIGN, "truncated")
    },
    **{
        f"to continue from, {name}": (
            lambda here, name=name: fit(checkpoint=here / name), FileError, name,
            "truncated or of another kind",
        )
        for name in FOREIGN
    },
    "a newer format": (
        lambda here: gb.load(here / "newer"), FileError, "format 'guidebook fit 99'", "install",
    ),
    "a missing file": (lambda here: gb.load(here / "nothing"), FileError, "There is no file"),
    "to save below a file": (
        lambda here: one_fit().save(here / "foreign" / "fit"), FileError, "foreign",
    ),
    "to keep a checkpoint below a file": (
        lambda here: fit(checkpoint=here / "foreign" / "checkpoint"), FileError, "foreign",
    ),
    "a checkpoint of another seed": (
        lambda here: fit(checkpoint=here / "checkpoint", seed=1), FileError,
        "belongs to another fit", "differs in.*seed", "remove",
    ),
    "a checkpoint of another guide": (
        lambda here: fit(checkpoint=here / "checkpoint", guide=by_another_hand), FileError,
        "belongs to another fit", "remove",
    ),
}  # fmt: skip


ERRORS = DATA | SETTINGS | OBJECTIVES | FILES


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


# what has an answer -------------------------------------------------------------------------------

DEGENERATE = {
    "an empty component": (np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, 0), 3),
    "a singular covariance": (np.column_stack([POINTS[:, 0], 2 * POINTS[:, 0]]), 2),
    "duplicated rows": (np.repeat(POINTS[:4], 5, 0), 3),
    "more components than rows": (POINTS[:2], 5),
    "one component": (POINTS, 1),
    "one row": (POINTS[:1], 2),
    "a constant column": (np.column_stack([POINTS[:, 0], np.full(24, 3.0)]), 2),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_a_prior_holds_degenerate_rows(engine: str, covariance: str, case: str) -> None:
    """Stated behaviour: a fit, whose parameters or draws are finite."""
    x, K = DEGENERATE[case]
    found = mixture_fit(engine, x, K, covariance)
    assert found.status is not gb.Status.STOPPED_BY_NAN
    assert np.isfinite(found.history).all()
    if found.draws is not None:
        assert bool(found.draws.isfinite().all())
        return
    guide: Any = found.guide
    values = guide.values if engine == "em" else guide.hyper()
    assert values["loc"].shape == (K, 2)
    for name, value in values.items():
        assert bool(value.isfinite().all()), name


@pytest.mark.parametrize("case", ["a singular covariance", "a constant column"])
def test_without_a_prior_em_stops_and_says_why(case: str) -> None:
    """The likelihood is unbounded there: a status and a note, no crash and no NaN in the values."""
    x, K = DEGENERATE[case]
    model = GaussianMixture(K, 2, "diagonal" if "column" in case else "full")
    found = gb.em(model, MixtureMode(model, prior=False), {"x": x}, progress=False)
    assert found.status is gb.Status.STOPPED_BY_NAN
    assert re.search(r"use a prior, fewer components", found.notes["nan"])


BEHAVIOURS: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "a data set of one row": (X[:1], {}),
    "a batch of one": (X, {"batch_size": 1}),
    "one image many times": (X[:1].expand(N, P), {}),
    "black images": (torch.zeros(N, P), {}),
    "white images": (torch.ones(N, P), {}),
    "grey images": (torch.full((N, P), 0.5), {}),
}
FAST = ("a batch of one", "black images")


@pytest.mark.parametrize("pair", SHELF)
@pytest.mark.parametrize(
    "case", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in BEHAVIOURS]
)
def test_degenerate_images_are_fitted(pair: str, case: str) -> None:
    """Stated behaviour: a fit, everything finite."""
    x, settings = BEHAVIOURS[case]
    found = shelf_fit(pair, x, **settings)
    assert found.status is not gb.Status.STOPPED_BY_NAN
    assert len(found.history) == 30 and np.isfinite(found.history).all()


def test_images_and_rows_are_the_same_data() -> None:
    """Stated behaviour: (n, C, H, W) and its flattened rows give the same fit."""
    flat, shaped = (shelf_fit("convolutional vae", x) for x in (X, X.reshape(N, *IMAGE)))
    np.testing.assert_array_equal(flat.history, shaped.history)

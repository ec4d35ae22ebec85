"""Bad input to `compare` as draws of other tools: what is not clear is refused, and the rest is the same."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from pyro.distributions import constraints

import guidebook as gb
from guidebook.diagnostics.inputs import named
from guidebook.diagnostics.trees import check_supports
from guidebook.errors import DataError, GuidebookError
from guidebook.programs.sites import Site
from tests.bad_input.conftest import Bad
from tests.bad_input.given_trees import chains, changed, good, said, spot, values, without

DRAWN = ("posterior", "sample_stats", "unconstrained")
READ = {
    "mu": "posterior", "theta": "posterior", "lp": "sample_stats", "log_q": "sample_stats",
    "position": "unconstrained", "gradient": "unconstrained",
}  # fmt: skip


def compared(*trees: Any) -> gb.Comparison:
    return gb.compare({f"a{i}" if i else "a": tree for i, tree in enumerate(trees)}, effort="quick")


def bad(make: Callable[[], Any], *words: str) -> Bad:
    return (lambda: compared(make()), DataError, "'a'", *words)


NOT_NUMBERS: dict[str, tuple[Any, ...]] = {
    "words": (lambda x: x.astype(str), "holds words, not numbers"),
    "complex": (lambda x: x + 1j, "complex numbers.*real and the imaginary part"),
    "complex, with no imaginary part": (lambda x: x + 0j, "complex numbers"),
    "objects": (lambda x: np.full(x.shape, "w", object), r"objects \(str\), not numbers"),
    "None": (lambda x: np.full(x.shape, None), r"objects \(NoneType\), not numbers"),
    "dates": (lambda x: np.zeros(x.shape, "M8[ns]"), "dates, not numbers"),
    "durations": (lambda x: np.zeros(x.shape, "m8[ns]"), "durations, not numbers"),
    "NaN": (spot(math.nan), "finite|NaN", "first nan in chain 1, draw 7"),
    "infinite": (spot(math.inf), "finite|inf", "first inf in chain 1, draw 7"),
}

ERRORS: dict[str, Bad] = {
    **{
        f"{variable} of {kind}": bad(
            lambda g=group, v=variable, c=change: changed(g, values(v, c)), f"'{variable}'", *words
        )
        for variable, group in READ.items()
        for kind, (change, *words) in NOT_NUMBERS.items()
    },
    **{
        f"{variable} without the dimension {dim}": bad(
            lambda g=group, v=variable, d=dim: changed(g, lambda x: x.assign({v: x[v].isel({d: 0},
            drop=True)})),
            f"'{variable}'", "dimensions", "chain", "draw",
        )
        for variable, group in READ.items()
        for dim in ("chain", "draw")
    },
    **{
        f"{variable} of true and false": bad(
            lambda g=group, v=variable: changed(g, values(v, lambda x: x > 0)), f"'{variable}'",
            "true and false",
        )
        for variable, group in READ.items()
        if group != "posterior"
    },
    **{
        f"{group} of {what}": bad(
            lambda g=group, s=select: changed(g, lambda x: x.isel(**s)), group, r"draws \d+ x \d+",
            r"posterior 2 x 300",
            f"drop_nodes\\('{group}'\\)",
        )
        for group in DRAWN[1:]
        for what, select in {
            "fewer draws": {"draw": slice(0, 299)}, "fewer chains": {"chain": slice(0, 1)},
            "no draws": {"draw": slice(0, 0)}, "more draws": {"draw": [*range(300), 0]},
        }.items()
    },
    **{
        f"{group} of other labels of {dim}": bad(
            lambda g=group, d=dim: changed(g,
            lambda x: x.assign_coords({d: x[d].size + np.arange(x[d].size)})),
            f"other labels of '{dim}'", "select the same draws",
        )
        for group in DRAWN[1:]
        for dim in ("chain", "draw")
    },
    "labels that are all one": bad(
        lambda: changed("sample_stats", lambda x: x.assign_coords(draw=np.zeros(300))),
        "other labels of 'draw'",
    ),
    "no draws": bad(lambda: changed("posterior", lambda x: x.isel(draw=[])), "2 x 0", "at least one"),
    "no chains": bad(lambda: changed("posterior", lambda x: x.isel(chain=[])), "0 x 300", "at least one"),
    "no variable": bad(lambda: without("posterior", "mu", "theta"), "no variable", "again"),
    "only variables of no element": bad(
        lambda: changed("posterior", lambda x: x[["theta"]].isel(school=[])), "no variable",
    ),
    "no chain": bad(lambda: changed("posterior", lambda x: x.isel(chain=0)), r"expand_dims\('chain'\)"),
    "draws called by another name": bad(
        lambda: changed("posterior", lambda x: x.rename(draw="iteration")), "iteration", "Rename",
    ),
    "chains and draws stacked": bad(
        lambda: changed("posterior", lambda x: x.stack(sample=("chain", "draw"))), "sample", r"unstack\(\)",
    ),
    "draws too large to square": bad(
        lambda: changed("posterior", values("mu", spot(1e151))), "larger than 1e\\+150", "chain 1, draw 7",
        "Rescale",
    ),
    "a log density of minus infinity under q": bad(
        lambda: changed("sample_stats", values("log_q", spot(-math.inf))), "'log_q'", "not finite",
    ),
    "no position": bad(lambda: without("unconstrained", "position"), "no 'position'", "drop_nodes"),
    "no gradient": bad(lambda: without("unconstrained", "gradient"), "no 'gradient'", "drop_nodes"),
    "a density for each element": bad(
        lambda: changed("sample_stats", lambda x: x.assign(lp=x["lp"].expand_dims(row=2))), "'lp'", "row",
        "Reshape",
    ),
    "divergences that are words": bad(
        lambda: changed("sample_stats", values("diverging", lambda x: x.astype(str)), chains()),
        "'diverging'", "words",
    ),
    "divergences that are counts": bad(
        lambda: changed("sample_stats", values("diverging", lambda x: x + 2), chains()), "'diverging'",
        "neither 0 nor 1",
        "first 2 in chain 0, draw 0",
    ),
    "divergences of other draws": bad(
        lambda: changed("sample_stats", lambda x: x.isel(draw=slice(100)), chains()), "4 x 100",
        "posterior 4 x 500",
    ),
    **{
        f"{key} that is {value!r}, of a file": bad(
            lambda k=key, v=value: said(k, v), f"'{key}' of vi_fit", "should be", "drop_nodes",
        )
        for key, value in [
            ("kind", "sample"), ("kind", 7), ("kind", np.array([1, 2])), ("status", "GOOD"), ("status",
            ["a", "b"]),
            ("status", np.array([])), ("seconds", "long"), ("seconds", np.ones(2)), ("discrete", "yes"),
            ("discrete", 7), ("discrete", math.nan), ("engine", np.ones(2)), ("engine", 7),
            ("family", [1, 2]),
            ("notes", "{"), ("notes", "[]"), ("notes", 7),
        ]
    },
    "an objective of words": bad(
        lambda: changed("vi_fit", values("objective", lambda x: x.astype(str))), "'objective'", "words",
    ),
    "an objective of two dimensions": bad(
        lambda: changed("vi_fit", lambda x: x.expand_dims(more=2)), "'objective'", "one value a step",
    ),
    "a path": bad(lambda: "a.nc", "a str", "open_datatree"),
    "a dict": bad(lambda: {"mu": np.zeros((1, 9))}, "a dict", "from_dict"),
    "a data set": bad(lambda: good()["posterior"].to_dataset(), "a Dataset", "arviz_base"),
    "a group": bad(lambda: good()["posterior"], "has the groups", "'posterior'"),
    "a tree without a posterior": bad(
        lambda: good().drop_nodes("posterior"), "has the groups.*'sample_stats'", "'posterior'",
    ),
    "elements in another order": (
        lambda: compared(good(), changed("posterior", lambda x: x.isel(school=[1, 0]))), DataError,
        "'theta'", "labels of 'school' in another order in 'a1' than in 'a'", "isel",
    ),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


# what is the same ----------------------------------------------------------------------------------

SAME: dict[str, Callable[[], Any]] = {
    "dimensions in another order": lambda: turned(good(), ("draw", ..., "chain")),
    "draws in another order, by their labels": lambda: changed("sample_stats",
    lambda x: x.isel(draw=shuffled())),
    "draws without labels": lambda: changed("sample_stats", lambda x: x.drop_vars(["chain", "draw"])),
    "all draws by labels of their own": lambda: everywhere(lambda x: x.assign_coords(draw=1000 + x["draw"])),
    "predictions of fewer draws": lambda: changed("log_likelihood", lambda x: x.isel(draw=slice(9))),
    "predictions of words": lambda: changed("log_likelihood", values("y", lambda x: x.astype(str))),
    "a coordinate of every draw": lambda: changed(
        "posterior", lambda x: x.assign_coords(t=(("chain", "draw"), np.zeros((2, 300))))
    ),
    "a variable of no element": lambda: changed(
        "posterior", lambda x: x.assign(beta=(("chain", "draw", "none"), np.zeros((2, 300, 0))))
    ),
    "objects that are numbers": lambda: changed("posterior", values("theta", lambda x: x.astype(object))),
    "another byte order": lambda: changed("sample_stats", values("lp", lambda x: x.astype(">f8"))),
    "longer numbers": lambda: changed("unconstrained", values("gradient", lambda x: x.astype(np.longdouble))),
    "attributes as arrays of one": lambda: said("status", np.array(["CONVERGED"])),
    "a library that is an array": lambda: changed("posterior",
    lambda x: x.assign_attrs(inference_library=np.ones(2))),
    "a group within a group": lambda: nested(),
}  # fmt: skip


def shuffled() -> np.ndarray:
    return np.random.default_rng(5).permutation(300)


def everywhere(change: Callable[[xr.Dataset], xr.Dataset]) -> xr.DataTree:
    made = good()
    for group in DRAWN:
        made = changed(group, change, made)
    return made


def turned(tree: xr.DataTree, order: tuple[Any, ...]) -> xr.DataTree:
    for group in DRAWN:
        tree = changed(group, lambda x: x.transpose(*order), tree)
    return tree


def nested() -> xr.DataTree:
    made = good().copy()
    made["posterior/inner"] = xr.DataTree(xr.Dataset({"z": 3}))
    return made


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return numbers(good())


def numbers(tree: Any) -> dict[str, Any]:
    return dict(compared(tree).table.loc["a"])


@pytest.mark.parametrize("case", SAME)
def test_what_means_the_same_is_judged_alike(case: str, expected: dict[str, Any]) -> None:
    assert numbers(SAME[case]()) == pytest.approx(expected, nan_ok=True)


def test_the_earlier_inference_data_is_read(expected: dict[str, Any]) -> None:
    import arviz  # seconds

    parts = {name: node.to_dataset() for name, node in good().children.items()}
    assert numbers(arviz.InferenceData(**parts)) == pytest.approx(expected, nan_ok=True)


def test_true_and_false_are_draws_of_zero_and_one() -> None:
    made = compared(changed("posterior", values("mu", lambda x: x > 0)))
    assert set(np.unique(made.posteriors["a"]["posterior"]["mu"])) == {0, 1}


def test_a_file_that_was_closed_is_named(tmp_path: Any) -> None:
    path = tmp_path / "a.nc"
    good().to_netcdf(path, engine="h5netcdf")
    opened = xr.open_datatree(path, engine="h5netcdf")
    opened.close()
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read from its file .*load\(\)"):
        compared(opened)


def test_the_tree_that_was_given_is_as_it_was() -> None:
    tree = turned(good(), ("draw", ..., "chain"))
    before = tree.copy(deep=True)
    compared(tree)
    assert tree.identical(before)


# any change ----------------------------------------------------------------------------------------

CHANGES: list[Callable[[np.ndarray], np.ndarray]] = [
    *(change for change, *_ in NOT_NUMBERS.values()), lambda x: x.astype(object), lambda x: x.astype(">f8"),
    lambda x: x.astype(np.longdouble)
]  # fmt: skip


def any_change(
    rng: np.random.Generator, data: xr.Dataset, variable: str
) -> Callable[[xr.Dataset], xr.Dataset]:
    """Values of another type, dimensions in another order or of other names, other draws."""
    dims, draws = list(data.dims), data.sizes.get("draw", 1)
    order, places = rng.permutation(dims), rng.permutation(draws)
    some, renamed = np.sort(places[: rng.integers(draws + 1)]), str(rng.choice(dims))
    first = data[variable].dims[0]
    numbers = data[variable].dtype.kind == "f"
    changes: list[Callable[[xr.Dataset], xr.Dataset]] = [
        values(variable, CHANGES[rng.integers(len(CHANGES))]) if numbers else lambda x: x,
        lambda x: x.transpose(*order),
        lambda x: x.isel(draw=some, missing_dims="ignore"),
        lambda x: x.isel(draw=places, missing_dims="ignore"),
        lambda x: x.rename({renamed: "both"}),
        lambda x: x.assign({variable: x[variable].isel({first: 0}, drop=True)}),
        lambda x: x.drop_vars(["chain"], errors="ignore"),
    ]
    return changes[int(rng.integers(len(changes)))]


def mutated(rng: np.random.Generator) -> xr.DataTree:
    """One or two changes of anything, anywhere."""
    tree = good()
    for _ in range(rng.integers(1, 3)):
        group = str(rng.choice(DRAWN))
        data = tree[group].to_dataset()
        variable = str(rng.choice(list(data.data_vars)))
        tree = changed(group, any_change(rng, data, variable), tree)
    return tree


@pytest.mark.parametrize("seed", range(2))
def test_a_changed_tree_is_refused_or_judged_as_the_good_one(seed: int) -> None:
    """Read into the same draws with the same densities, in the order of the posterior, or refused."""
    rng = np.random.default_rng(seed)
    wanted = good()["unconstrained"]["position"].values.reshape(-1, 3)
    wanted, kept = wanted[np.argsort(wanted[:, 0])], 0
    for _ in range(25):
        tree = mutated(rng)
        try:
            read = named({"a": tree}, None)["a"]
        except GuidebookError:
            continue
        kept += 1
        position = np.concatenate(
            [read["posterior"]["mu"].values[..., None], read["posterior"]["theta"].values], -1
        )
        order = np.argsort(position[..., 0], axis=None)
        rows = position.reshape(-1, 3)[order]
        assert np.allclose(rows, wanted)
        for group, variable, of in (
            ("sample_stats", "lp", lambda u: -0.5 * np.square(u - 0.1).sum(-1)),
            ("sample_stats", "log_q", lambda u: -0.5 * np.square(u).sum(-1)),
            ("unconstrained", "position", lambda u: u), ("unconstrained", "gradient", lambda u: 0.1 - u),
        ):  # fmt: skip
            assert np.allclose(read[group][variable].values, of(position), 1e-9)
    assert 0 < kept < 25


# beside a fit --------------------------------------------------------------------------------------


def beside(**supports: Any) -> gb.Fit:
    """A fit of a model with sites of two elements of these supports."""
    shape = torch.Size([2])
    sites = tuple(Site(name, shape, shape, 0, given, ()) for name, given in supports.items())
    return gb.Fit(None, None, None, np.empty(0), gb.Status.CONVERGED, 0, 0.0, "svi", sites)


@pytest.mark.parametrize(
    ("support", "inside", "outside"),
    [
        (constraints.positive, 0.0, -1e-3),
        (constraints.interval(0.0, 2.0), 2 + 1e-7, 2.001),
        (constraints.interval(torch.tensor([0.0, 1.0]), 2.0), 1.0, 0.9),
        (constraints.less_than(3.0), -1e9, 3.01),
        (constraints.independent(constraints.unit_interval, 1), 1.0, 1.01),
        (constraints.nonnegative_integer, 0.0, -1.0),
        (constraints.real, -1e9, None),
    ],
)
def test_draws_outside_a_support_of_the_model_are_refused(
    support: Any, inside: float, outside: float | None
) -> None:
    def check(value: float) -> None:
        draws = xr.Dataset({"s": (("chain", "draw", "i"), np.array([[[0.5, value]] * 9]))})
        tree = xr.DataTree.from_dict({"/posterior": draws})
        check_supports({"other": tree}, {"fit": beside(s=support)})

    check(inside)
    if outside is not None:
        words = r"'other': draws of 's' are outside the support .*'fit'.* scale"
        with pytest.raises(DataError, match=words):
            check(outside)


def test_draws_of_a_fit_and_of_other_shapes_are_left_to_others() -> None:
    draws = xr.Dataset({"s": (("chain", "draw"), -np.ones((1, 9)))})
    tree = xr.DataTree.from_dict({"/posterior": draws})
    fit = beside(s=constraints.positive)
    check_supports({"fit": tree}, {"fit": fit})
    check_supports({"other": tree}, {"fit": fit})

"""The subject of a global approximation, read from trees made by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from guidebook.diagnostics import assess as room
from guidebook.diagnostics.assess import assess, subject_of
from guidebook.diagnostics.evidence.subject import Marginals, Reference, Subject, Whole
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.witnesses import calibration, chains, enumeration, hearing, importance
from guidebook.inference.fits.status import Status

CHAINS, DRAWS = 2, 3
X = np.arange(12.0).reshape(CHAINS, DRAWS, 2)
LP = np.arange(6.0).reshape(CHAINS, DRAWS)
LOG_Q = np.square(LP)


def tree(
    stats: dict[str, np.ndarray] | None = None,
    unconstrained: bool = False,
    library: str = "",
    x: np.ndarray = X,
    **attributes: Any,
) -> xr.DataTree:
    dims = ("chain", "draw", "x_dim")
    groups = {"posterior": xr.Dataset({"x": (dims, x)})}
    if library:
        groups["posterior"].attrs["inference_library"] = library
    if stats is not None:
        groups["sample_stats"] = xr.Dataset({n: (dims[:2], v) for n, v in stats.items()})
    if unconstrained:
        groups["unconstrained"] = xr.Dataset(
            {n: (("chain", "draw", "u"), v) for n, v in (("position", x), ("gradient", -2 * x))},
            coords={"u": ["a", "b"]},
        )
    if attributes:
        groups["vi_fit"] = xr.Dataset(attrs=attributes)
    return xr.DataTree.from_dict(groups)


def test_draws_and_densities_of_all_chains_lie_in_one_row() -> None:
    subject = subject_of(tree({"lp": LP, "log_q": LOG_Q}, unconstrained=True), None, seed=7)
    np.testing.assert_array_equal(subject.values, X.reshape(6, 1, 2))
    assert list(subject.names) == ["x[0]", "x[1]"]
    assert subject.log_ratio is not None and subject.log_density is not None
    np.testing.assert_array_equal(subject.log_ratio, (LP - LOG_Q).reshape(6, 1))
    np.testing.assert_array_equal(subject.log_density, LP.reshape(6, 1))
    np.testing.assert_array_equal(subject.position, X.reshape(6, 1, 2))
    np.testing.assert_array_equal(subject.gradient, -2 * X.reshape(6, 1, 2))
    assert list(subject.coordinates) == ["a", "b"]
    assert (subject.kind, subject.posteriors, subject.seed) == ("density", 1, 7)
    assert subject.tails.tolist() == [[1.0, 1.0]] and subject.discrete.tolist() == [False, False]
    assert subject.status is None and subject.density is None and subject.potential is None


def test_what_is_compared_with_is_passed_on() -> None:
    reference = Reference("long", Marginals(["x"], np.zeros((2, 1))), 5.0, True)
    nothing = np.zeros(0)
    modes = Basins([], *([nothing] * 2), np.zeros((0, 1)), *([nothing] * 3))
    given = tree()
    subject = subject_of(given, None, reference, modes)
    assert subject.reference is reference and subject.modes is modes and subject.tree is given
    assert subject.seed == 0


@pytest.mark.parametrize(
    ("stats", "lacks", "density"),
    [
        (None, "no lp and no log_q", False),
        ({}, "no lp and no log_q", False),
        ({"lp": LP}, "no log_q", True),
        ({"log_q": LOG_Q}, "no lp", False),
    ],
)
def test_densities_that_a_file_lacks_are_named(
    stats: dict[str, np.ndarray] | None, lacks: str, density: bool
) -> None:
    subject = subject_of(tree(stats), None)
    assert subject.log_ratio is None and (subject.log_density is not None) is density
    assert subject.lacks["log_ratio"] == f"sample_stats has {lacks}"
    assert subject.lacks["gradient"] == "no gradients in the file"
    assert subject.lacks["density"] == subject.lacks["modes"]
    assert subject.lacks["modes"] == "needs the model: give the Fit, not its file"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (tree(), "chains"),
        (tree({"lp": LP}), "chains"),
        (tree({"log_q": LOG_Q}), "density"),
        (tree(x=X.reshape(1, 6, 2)), "density"),
        (tree(kind="particles"), "particles"),
    ],
)
def test_what_a_file_holds(given: xr.DataTree, kind: str) -> None:
    assert subject_of(given, None).kind == kind


def test_discrete_draws_have_no_gradients() -> None:
    subject = subject_of(tree(discrete=True), None)
    assert subject.discrete.tolist() == [True, True]
    words = "discrete values have no gradients"
    assert [subject.lacks[n] for n in ("gradient", "density", "modes")] == [words] * 3


def test_heavy_tails_are_measured_where_there_is_a_spread() -> None:
    """Cauchy draws, k-hat 1, in the first marginal; a point and discrete values have no tails."""
    heavy = np.random.default_rng(0).standard_cauchy((1, 4000, 2))
    heavy[..., 1] = np.random.default_rng(1).uniform(size=(1, 4000))
    of_density = subject_of(tree(x=heavy), None).tails
    assert of_density.shape == (1, 2) and of_density[0, 0] > 3 and of_density[0, 1] == 1
    for attributes in ({"kind": "point"}, {"discrete": True}):
        assert subject_of(tree(x=heavy, **attributes), None).tails.tolist() == [[1.0]]


def test_status_is_read_by_its_name() -> None:
    assert subject_of(tree(status="STILL_MOVING"), None).status is Status.STILL_MOVING
    assert subject_of(tree(status="of another version"), None).status is None


def normal_file(**attributes: Any) -> xr.DataTree:
    """Draws of N(0, 1) for the density N(0, 1), with their weights."""
    x = np.random.default_rng(0).normal(size=(1, 2000, 2))
    lp = -0.5 * np.square(x).sum(-1)
    shift = np.array([0.3, 0.0])
    log_q = -0.5 * np.square(x - shift).sum(-1)
    return tree({"lp": lp, "log_q": log_q}, x=x + shift * 0, **attributes)


def test_an_assessment_holds_weights_sites_engine_and_seconds() -> None:
    found = assess(normal_file(seconds=3.5, engine="svi", family="mean_field"))
    assert found.weights is not None and found.weights.sum() == pytest.approx(1.0)
    assert found.weights.shape == (2000,)
    assert list(found.khat_sites) == ["x"]
    assert (found.engine, found.seconds, found.findings.family) == ("svi", 3.5, "mean_field")
    assert found.numbers["ess"] == pytest.approx(1 / np.square(found.weights).sum(), rel=1e-6)
    assert found.witnesses == found.findings.sentences()
    draws_alone = assess(tree(x=X.reshape(1, 6, 2)))
    assert draws_alone.weights is None and draws_alone.khat_sites == {}
    assert draws_alone.judgement.verdict is Verdict.REJECT and np.isnan(draws_alone.seconds)
    assert assess(normal_file(discrete=True)).khat_sites == {}


@pytest.mark.parametrize(
    ("facts", "engine"),
    [
        ({"engine": "svi", "library": "pymc"}, "svi"),
        ({"library": "pymc"}, "pymc"),
        ({}, "file"),
        ({"kind": "chains"}, "sampler"),
    ],
)
def test_who_made_the_draws(facts: dict[str, Any], engine: str) -> None:
    x = np.random.default_rng(0).normal(size=(1, 50, 2))
    status = {"status": "CONVERGED"} if "kind" in facts else {}
    assert assess(tree(x=x, **facts, **status)).engine == engine


# with the Fit that the draws come from -------------------------------------------------------------


class Fitted:
    """What is read of a Fit; its potential may be asked for only where it is of use."""

    seconds = 8.0

    def __init__(self, kind: str = "density", vectorised: bool | None = True, **facts: Any) -> None:
        self.approximation = SimpleNamespace(kind=kind)
        self.status = Status.STILL_MOVING
        self.model, self.data = print, {"x": 1}
        self.vectorised = vectorised
        self.__dict__.update(facts)

    @property
    def potential(self) -> Any:
        assert self.vectorised is not None, "nobody needs it"
        return SimpleNamespace(vectorised=self.vectorised)


def of_fit(fit: Any, **facts: Any) -> Subject:
    return subject_of(tree(unconstrained=facts.pop("unconstrained", True), **facts), fit)


def test_a_fit_gives_its_potential_kind_and_status() -> None:
    subject = of_fit(Fitted("particles"), kind="density", status="CONVERGED")
    assert isinstance(subject.density, Whole) and subject.density.potential is subject.potential
    assert subject.kind == "particles" and subject.status is Status.STILL_MOVING
    assert subject.lacks["modes"] == ""


def test_a_model_that_cannot_be_vectorised_has_no_density_for_the_run() -> None:
    subject = of_fit(Fitted(vectorised=False))
    assert subject.potential is not None and subject.density is None
    assert subject.lacks["density"] == "the model cannot be vectorised"
    assert subject.lacks["modes"] == ""


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_fit_without_its_model_or_its_data_has_no_potential(missing: str) -> None:
    subject = of_fit(Fitted(vectorised=None, **{missing: None}))
    assert subject.potential is None and subject.density is None
    words = "needs the model: give the Fit, not its file"
    assert subject.lacks["density"] == subject.lacks["modes"] == words


def test_draws_without_their_unconstrained_scale_need_no_potential() -> None:
    subject = of_fit(Fitted(vectorised=None), unconstrained=False)
    assert subject.potential is None and subject.density is None
    assert subject.lacks["density"] == "the unconstrained scale has too many dimensions"
    discrete = of_fit(Fitted(vectorised=None), unconstrained=False, discrete=True)
    assert (
        discrete.lacks["modes"] == discrete.lacks["density"] == "discrete values have no gradients"
    )


def test_seconds_of_the_file_come_before_those_of_the_fit() -> None:
    fit: Any = Fitted(vectorised=None, model=None)
    assert assess(normal_file(seconds=3.0), fit).seconds == 3.0
    assert assess(normal_file(), fit).seconds == 8.0


# the witnesses ---------------------------------------------------------------------------------------


def test_which_witnesses_every_row_can_be_given() -> None:
    """Those that ask neither for gradients nor for new positions; the others where nothing is cheap."""
    every = {one.name for one in hearing.WITNESSES if one.every}
    assert every == {chains.NAME, calibration.NAME, importance.NAME, enumeration.NAME}


def test_witnesses_are_heard_in_order_each_with_what_was_heard_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before: dict[str, list[str]] = {}

    def witness(name: str, **settings: bool) -> hearing.Witness:
        def hear(subject: Subject, heard: Any) -> Testimony:
            before[name] = list(heard)
            return Testimony(name)

        return hearing.Witness(name, hear, **settings)

    three = witness("a", every=True), witness("b"), witness("c", every=True)
    monkeypatch.setattr(hearing, "WITNESSES", three)
    subject: Any = None
    assert list(hearing.heard_on(subject)) == ["a", "b", "c"]
    assert before == {"a": [], "b": ["a"], "c": ["a", "b"]}
    assert list(hearing.heard_on(subject, cheap=True)) == ["a", "c"] and before["c"] == ["a"]


def test_what_is_told_besides_the_draws_reaches_witnesses_and_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A calibration, the seed, the effort, and that draws were moved, and why."""
    seen: list[Any] = []

    def heard(subject: Subject) -> dict[str, Testimony]:
        seen.append(subject)
        return {importance.NAME: Testimony(importance.NAME)}

    def findings(*arguments: Any, **facts: Any) -> Any:
        seen.append(facts)
        return real(*arguments, **facts)

    real = room.findings_of
    monkeypatch.setattr(room, "heard_on", heard)
    monkeypatch.setattr(room, "findings_of", findings)
    own: Any = object()
    assess(tree(), fitted="They were off.", calibration=own, effort="quick", seed=7)
    subject, facts = seen
    assert subject.calibration is own and subject.moved and subject.effort == "quick"
    assert subject.seed == 7 and facts["fitted"] == "They were off."
    seen.clear()
    assess(tree())
    subject, facts = seen
    assert subject.calibration is None and not subject.moved and subject.effort == "full"
    assert subject.seed == 0 and facts["fitted"] == ""


def test_a_fit_that_cannot_be_judged_is_rejected_with_what_it_is() -> None:
    fit: Any = SimpleNamespace(
        approximation=SimpleNamespace(kind="particles"), engine="svgd", seconds=1.5
    )
    found = room.refused(fit, "Its draws are not finite.")
    assert found.judgement.verdict is Verdict.REJECT
    assert found.judgement.reason == "Its draws are not finite."
    assert found.findings.kind == "particles" and found.findings.engine == "svgd"
    assert found.engine == "svgd" and found.seconds == 1.5 and not found.findings.names

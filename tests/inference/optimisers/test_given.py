"""Optimisers of pyro.optim in the recorded step: pyro.infer.SVI's own, step for step."""

import re
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.inference.optimisers.given import check_optimiser, read
from guidebook.programs.graphs.recorded import CannotRecord

STEPS = 13
DATA = torch.tensor([3.0, -1.0, 40.0], dtype=torch.float64)


def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    pyro.sample("y", dist.Normal(w + m, pyro.param("noise", torch.tensor(1.5), constraints.positive))
                .to_event(1), obs=y)  # fmt: skip


def busy(y):
    """Gradients of the three entries of `w` differ in scale."""
    scale = pyro.param("w.scale", torch.full((3,), 0.3), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(pyro.param("w.loc", torch.ones(3)), scale).to_event(1))
    pyro.sample("m", dist.Normal(pyro.param("m.loc", torch.tensor(0.2)), 0.5))


def idling(y):
    """With a parameter that has no gradient at all."""
    pyro.param("idle", torch.ones(2))
    busy(y)


PARAMETERS = ("noise", "w.scale", "w.loc", "m.loc")


def pyros_own(optim, guide=idling, steps=STEPS, objective=None):
    """Losses, and the parameters at the end, of pyro.infer.SVI; a schedule is stepped after each step."""
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            torch.manual_seed(5)
            svi = SVI(model, guide, optim, objective or Trace_ELBO())
            losses = []
            for _ in range(steps):
                losses.append(svi.step(DATA))
                if isinstance(optim, pyro.optim.PyroLRScheduler):
                    optim.step()
            names = (*PARAMETERS, "idle") if guide is idling else PARAMETERS
            return np.array(losses), {n: pyro.param(n).detach().clone() for n in names}
    finally:
        torch.set_default_dtype(torch.float32)


def fitted(optim, guide=idling, compile="graph", steps=STEPS, **settings):
    """The fit, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = gb.svi(
            model, guide, {"y": DATA}, optim=optim, steps=steps, compile=compile, seed=5,
            progress=False, **{"objective": Trace_ELBO(), **settings},
        )  # fmt: skip
    return fit, [str(one.message) for one in caught]


def value(fit, name):
    return (fit.model if name == "noise" else fit.guide).value(name)


def same(fit, losses, parameters):
    np.testing.assert_allclose(fit.history, losses, rtol=1e-9, atol=1e-9)
    for name, expected in parameters.items():
        torch.testing.assert_close(value(fit, name).detach(), expected, rtol=1e-8, atol=1e-10)


def scheduled(schedule, inner=torch.optim.Adam, clip_args=None, options=None, **settings):
    return getattr(pyro.optim, schedule)(
        {"optimizer": inner, "optim_args": {"lr": 0.1, **(options or {})}, **settings}, clip_args
    )


def by_name(name):
    return {"lr": 0.001} if name == "w.loc" else {"lr": 0.2, "weight_decay": 0.3}


def clipped_by_name(module, name):
    return {"clip_norm": 0.7} if name == "w.loc" else {}


RECORDED = {
    "Adam": lambda: pyro.optim.Adam(
        {"lr": 0.1, "eps": 0.5, "betas": (0.8, 0.9), "foreach": True}
    ),
    "Adam, decay": lambda: pyro.optim.Adam({"lr": 0.1, "weight_decay": 0.2}),
    "Adam, amsgrad": lambda: pyro.optim.Adam({"lr": 0.1, "amsgrad": True, "betas": (0.5, 0.6)}),
    "Adam, norm": lambda: pyro.optim.Adam({"lr": 0.1, "eps": 1.0}, {"clip_norm": 0.7}),
    "Adam, value": lambda: pyro.optim.Adam({"lr": 0.1, "eps": 1.0}, {"clip_value": 0.4}),
    "Adam by name": lambda: pyro.optim.Adam(by_name, clipped_by_name),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.1}),
    "AdamW, decay": lambda: pyro.optim.AdamW({"lr": 0.1, "weight_decay": 2.0, "amsgrad": True}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.1, "clip_norm": 1.5, "lrd": 0.9}),
    "ClippedAdam, all": lambda: pyro.optim.ClippedAdam(
        {"lr": 0.1, "weight_decay": 0.2, "centered_variance": True, "eps": 0.1, "betas": (0.7, 0.9)}
    ),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.003}),
    "SGD, momentum": lambda: pyro.optim.SGD(
        {"lr": 0.003, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.2}
    ),
    "SGD, Nesterov": lambda: pyro.optim.SGD({"lr": 0.003, "momentum": 0.8, "nesterov": True}),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.05, "alpha": 0.8, "weight_decay": 0.1}),
    "RMSprop, centred": lambda: pyro.optim.RMSprop({"lr": 0.02, "centered": True, "momentum": 0.5}),
    "AdagradRMSProp": lambda: pyro.optim.AdagradRMSProp({"eta": 0.5, "t": 0.3, "delta": 0.1}),
    "ExponentialLR": lambda: scheduled("ExponentialLR", gamma=0.8),
    "MultiStepLR": lambda: scheduled("MultiStepLR", milestones=[3, 11], gamma=0.1),
    "OneCycleLR": lambda: scheduled("OneCycleLR", max_lr=0.3, total_steps=STEPS),
    "CyclicLR of momentum": lambda: scheduled(
        "CyclicLR", torch.optim.SGD, base_lr=1e-4, max_lr=0.003, step_size_up=5,
        options={"momentum": 0.9},
    ),
    "ExponentialLR, decay and norm": lambda: scheduled(
        "ExponentialLR", torch.optim.AdamW, {"clip_norm": 0.7}, gamma=0.9
    ),
    "ExponentialLR of ClippedAdam": lambda: scheduled(
        "ExponentialLR", pyro.optim.clipped_adam.ClippedAdam, gamma=0.9, options={"lrd": 0.9}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_optimiser_is_pyros_step_for_step(name):
    guide = busy if name == "Adam, value" else idling  # torch cannot clip what has no gradient
    fit, told = fitted(RECORDED[name](), guide)
    assert fit.notes["path"] == "captured", told
    same(fit, *pyros_own(RECORDED[name](), guide))


UNRECORDED = {
    "Adagrad": (lambda: pyro.optim.Adagrad({"lr": 0.1}), "Adagrad is not among"),
    "a schedule of NAdam": (
        lambda: scheduled("ExponentialLR", torch.optim.NAdam, gamma=0.8), "NAdam is not among"
    ),
    "uphill": (
        lambda: pyro.optim.SGD({"lr": 1e-5, "maximize": True}), "maximize=True of SGD is not recorded"
    ),
    "a kind that differs": (
        lambda: pyro.optim.Adam(lambda name: {"lr": 0.1, "amsgrad": name == "w.loc"}),
        "amsgrad differs among parameters",
    ),
    "momentum off and on": (
        lambda: scheduled("CyclicLR", torch.optim.SGD, base_lr=1e-4, max_lr=2e-4, step_size_up=3,
                          base_momentum=0.0, max_momentum=0.5, options={"momentum": 0.5}),
        "turns momentum off and on",
    ),
    "a class of one's own": (
        lambda: type("Mine", (pyro.optim.PyroOptim,), {})(torch.optim.Adam, {"lr": 0.1}), "Mine is a class"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNRECORDED)
def test_any_other_runs_by_pyros_svi_after_one_warning(name):
    optim, why = UNRECORDED[name]
    fit, told = fitted(optim())
    assert fit.notes["path"] == "reference"
    assert len(told) == 1 and why in told[0]
    same(fit, *pyros_own(optim()))


def test_schedules_and_options_by_name_hold_on_the_reference_path_too():
    """Rates by name in a schedule: names are those of the program, whichever path asks."""
    asked = []

    def by_name(name):
        asked.append(name)
        return {"lr": 0.3 if name == "w.loc" else 0.01}

    def make():
        return pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": by_name, "gamma": 0.8}, clipped_by_name
        )

    expected = pyros_own(make())
    for path in ("graph", False):
        asked.clear()
        fit, _ = fitted(make(), compile=path)
        same(fit, *expected)
        assert set(asked) == {"noise", "idle", "w.scale", "w.loc", "m.loc"}


@pytest.mark.parametrize("kind", ["network", "autoguide"])
def test_names_are_those_of_pyros_store(kind):
    """Of networks registered by pyro.module, and of Pyro's autoguides, whose scales are constrained."""
    net, asked = torch.nn.Linear(1, 1), []

    def one(y):
        pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    def by_network(y):
        pyro.module("net", net)
        pyro.sample("z", dist.Normal(net(torch.ones(1, dtype=net.weight.dtype)).sum(), 1.0))

    def make():
        return pyro.optim.Adam(lambda name: asked.append(name) or {"lr": 0.01})

    def guide():
        return by_network if kind == "network" else AutoNormal(one)

    y = torch.tensor(1.0)
    with pyro.get_param_store().scope():
        SVI(one, guide(), make(), Trace_ELBO()).step(y)
    names = {
        "network": {"net.weight", "net.bias"},
        "autoguide": {"AutoNormal.locs.z", "AutoNormal.scales.z"},
    }
    assert set(asked) == names[kind]
    for path in ("graph", False):
        asked.clear()
        gb.svi(one, guide(), {"y": y}, optim=make(), steps=2, compile=path, progress=False)
        assert set(asked) == names[kind]


def test_a_schedule_goes_on_where_the_number_of_steps_is_open():
    from guidebook.inference.gradient.chosen import chosen_optimiser
    from guidebook.inference.gradient.course import BUDGET
    from guidebook.inference.gradient.problem import Problem, Settings
    from guidebook.programs.owned import Joined

    joined = Joined(model, busy)
    joined.guide(y=DATA)
    problem = Problem(
        joined.model, joined.guide, (), {}, None, Trace_ELBO(), 1, torch.device("cpu"), 0
    )
    rates = chosen_optimiser(
        problem, Settings(10, True, pyro.optim.ClippedAdam({"lr": 0.5, "lrd": 0.9}))
    ).rates
    np.testing.assert_allclose(rates, 0.5 * 0.9 ** np.arange(1, BUDGET * 10 + 1), rtol=1e-10)


REFUSED = {
    "torch's": (
        lambda: torch.optim.RMSprop([torch.zeros(1, requires_grad=True)], lr=0.3),
        r"torch.optim.RMSprop is not an optimiser of pyro.optim. Give pyro.optim.RMSprop\(\{.lr.: 0.3\}\)",
    ),
    "torch's class": (lambda: torch.optim.Adam, r"Give pyro.optim.Adam\(\{"),
    "a number": (lambda: 0.01, r"optim=0.01 is not an optimiser.*Give pyro.optim.Adam"),
    "Pyro's function": (lambda: pyro.optim.Adam, r"is not an optimiser.*Give pyro.optim.Adam\(\{"),
    "second order": (lambda: pyro.optim.multi.Newton(), "optim is a Newton, which takes a loss"),
    "Horovod": (
        lambda: pyro.optim.HorovodOptimizer(pyro.optim.Adam({"lr": 0.1})), "Give the optimiser inside it"
    ),
    "a metric": (
        lambda: scheduled("ReduceLROnPlateau", factor=0.5), "ReduceLROnPlateau waits for a metric"
    ),
    "sparse": (lambda: pyro.optim.SparseAdam({"lr": 0.1}), "SparseAdam needs sparse gradients"),
    "an unknown option": (
        lambda: pyro.optim.Adam({"learning_rate": 0.1}), "torch refuses.*learning_rate"
    ),
    "a number out of range": (lambda: pyro.optim.SGD({"lr": -0.1}), "torch refuses.*-0.1"),
    "an unknown clip": (
        lambda: pyro.optim.Adam({"lr": 0.1}, {"norm": 3.0}), "clips gradients by.*norm.*clip_value"
    ),
    "no dict for a name": (lambda: pyro.optim.Adam(lambda name: 0.1), "gives 0.1 for .*a dict"),
    "an unknown option of a schedule": (
        lambda: scheduled("ExponentialLR", rate=0.5), "torch refuses.*rate"
    ),
    "a schedule that ends before": (
        lambda: scheduled("OneCycleLR", max_lr=0.3, total_steps=STEPS - 2),
        f"ends after {STEPS - 1} steps, and the fit may take {STEPS}: give steps={STEPS - 1}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_fit_can_run_is_refused_in_one_sentence(name):
    optim, why = REFUSED[name]
    with pytest.raises(SettingError, match=re.compile(why, re.S)):
        fitted(optim())


def test_a_schedule_that_ends_before_is_refused_on_the_reference_path_too():
    with pytest.raises(SettingError, match=f"ends after {STEPS - 1} steps"):
        fitted(REFUSED["a schedule that ends before"][0](), compile=False)


def test_a_state_that_was_loaded_is_not_dropped_in_silence():
    with pyro.get_param_store().scope():
        used = pyro.optim.Adam({"lr": 0.1})
        SVI(model, busy, used, Trace_ELBO()).step(DATA)
        state = used.get_state()
    loaded = pyro.optim.Adam({"lr": 0.1})
    loaded.set_state(state)
    with pytest.raises(SettingError, match=r"a state that was loaded.*checkpoint="):
        fitted(loaded)
    fresh, _ = fitted(pyro.optim.Adam({"lr": 0.1}), busy)
    again, _ = fitted(used, busy)  # used elsewhere: it begins anew, and is left as it was
    np.testing.assert_array_equal(again.history, fresh.history)
    assert [float(s["step"]) for o in used.optim_objs.values() for s in o.state.values()] == [
        1.0
    ] * 4


SCHEDULES = {
    "ConstantLR": {}, "CosineAnnealingLR": {"T_max": 4}, "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": 1e-3, "max_lr": 1e-2, "cycle_momentum": False}, "ExponentialLR": {"gamma": 0.5},
    "LambdaLR": {"lr_lambda": lambda step: 0.5**step}, "LinearLR": {}, "MultiStepLR": {"milestones": [1]},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.5}, "OneCycleLR": {"max_lr": 0.1, "total_steps": 4},
    "PolynomialLR": {}, "StepLR": {"step_size": 2}, "ReduceLROnPlateau": {}, "ChainedScheduler": {},
    "SequentialLR": {"milestones": [1], "schedulers": []},
}  # fmt: skip


def how(optim):
    """What becomes of an optimiser, of a single parameter and four steps."""
    try:
        check_optimiser(optim)
        read(optim, [("x", torch.zeros(1, 1))], lambda: [False], 4)
    except SettingError:
        return "refused"
    except CannotRecord:
        return "reference"
    return "recorded"


def test_the_table_says_what_is():
    """Of every optimiser and schedule that pyro.optim has."""
    text = (Path(__file__).parents[3] / "docs" / "optimisers.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`.*?) \| (recorded|reference|refused|as the optimiser)",
        text.split("## Objectives")[0],
        re.M,
    )
    said = {name: how for names, how in rows for name in re.findall(r"`(\w+)`", names)}
    bases = {"LRScheduler", "_LRScheduler", "PyroOptim", "PyroLRScheduler"}
    assert set(pyro.optim.__all__) - bases <= set(said)
    for name in set(said) & set(pyro.optim.__all__) - {"HorovodOptimizer"}:  # of this torch
        kept = said[name]
        if name in SCHEDULES:
            expected = "recorded" if kept == "as the optimiser" else kept
            assert how(scheduled(name, **SCHEDULES[name])) == expected, name
        else:
            assert how(getattr(pyro.optim, name)({})) == kept, name

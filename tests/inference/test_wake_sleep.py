"""The inclusive KL: marginal variances where the exclusive one gives conditional variances."""

import os
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ReweightedWakeSleep
from torch import nn

import guidebook as gb
from guidebook.errors import GuideError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.gradient import run as loop
from guidebook.inference.objectives.wake_sleep import RowWakeSleep
from guidebook.inference.wake_sleep import wake_sleep
from guidebook.models.decoders.latent import LinearVAE

ROWS, P, D = 40, 4, 2


def correlated():
    """A frozen decoder whose posterior has correlation -0.76, and data drawn from it."""
    torch.manual_seed(0)
    model = LinearVAE(P, D).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.2, 1.0], [1.0, 1.2], [0.8, 0.5], [0.3, 0.7]]))
        model.log_scale.fill_(0.0)
        with pyro.get_param_store().scope():
            x = model(size=ROWS)
    return model.requires_grad_(False), {"x": x}


def linear_guide():
    torch.manual_seed(1)
    return AmortizedNormal(nn.Linear(P, 2 * D), D).double()


def variances(fit, data):
    """The guide's variances, averaged over rows: (D,)."""
    return fit.guide.posterior(data["x"]).variance.mean(0).detach().numpy()


def truth(model, data):
    covariance = LinearGaussianPosterior(model).posterior(data["x"]).covariance_matrix[0].numpy()
    return np.diag(covariance), 1 / np.diag(np.linalg.inv(covariance))


# Adam's noise in a variance after averaging is about 2 %, and self-normalised weights of K = 64
# particles narrow the optimum by O(1 / K): 8 % covers both, where the two truths differ by 2.4 times.
OPTIONS = {"steps": 2500, "progress": False, "compile": "graph"}
RATE = {"lr": 0.005}


@pytest.mark.parametrize(("insomnia", "particles"), [(1.0, 64), (0.0, 2)])
def test_the_inclusive_kl_gives_a_diagonal_guide_the_marginal_variances(insomnia, particles):
    model, data = correlated()
    marginal, conditional = truth(model, data)
    assert (marginal > 2 * conditional).all()
    fit = wake_sleep(
        model, linear_guide(), data, particles=particles, insomnia=insomnia,
        optim=pyro.optim.Adam(RATE), **OPTIONS,
    )  # fmt: skip
    np.testing.assert_allclose(variances(fit, data), marginal, rtol=0.08)
    assert fit.engine == "wake_sleep"
    assert len(fit.history) == 2500


def test_the_exclusive_kl_gives_it_the_conditional_variances():
    model, data = correlated()
    fit = gb.svi(model, linear_guide(), data, optim=pyro.optim.Adam(RATE), **OPTIONS)
    np.testing.assert_allclose(variances(fit, data), truth(model, data)[1], rtol=0.08)


def gradients(objective, model, guide, data, seed=3):
    """The loss and the gradients that one evaluation leaves in the parameters of the two."""
    pyro.set_rng_seed(seed)
    for part in (model, guide):
        part.zero_grad()
    with pyro.get_param_store().scope():
        loss = objective.loss_and_grads(model, guide, **data)
    return loss, [p.grad.clone() for part in (model, guide) for p in part.parameters()]


def test_for_a_single_row_it_is_pyros_own_objective():
    model, data = correlated()
    model.requires_grad_(True)
    data = {"x": data["x"][:1]}
    ours = gradients(RowWakeSleep(8), model, linear_guide(), data)
    theirs = gradients(
        ReweightedWakeSleep(num_particles=8, max_plate_nesting=1), model, linear_guide(), data
    )
    assert ours[0] == pytest.approx(theirs[0][0], abs=1e-12)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class Mean(nn.Module):
    """A global latent with rows below it: no plate is shared by all sites."""

    def forward(self, y, size=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        plate = {} if size is None else {"subsample": torch.arange(len(y))}
        with pyro.plate("row", size or len(y), **plate):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


class MeanGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, y, size=None):
        pyro.sample("mean", dist.Normal(self.loc, self.log_scale.exp()))


def test_with_a_global_latent_it_is_pyros_own_objective():
    y = {"y": torch.tensor([0.3, 1.2, -0.5])}
    ours = gradients(RowWakeSleep(8), Mean(), MeanGuide(), y)
    pyros = ReweightedWakeSleep(num_particles=8, max_plate_nesting=1)
    theirs = gradients(pyros, Mean(), MeanGuide(), y)
    assert ours[0] == pytest.approx(theirs[0][0], abs=1e-6)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other)


def test_the_guides_gradient_is_that_of_the_inclusive_kl():
    # -E_p[d log q / d loc] = -(E_p[z] - loc) / scale^2 and -E_p[d log q / d log scale] =
    # 1 - E_p[(z - loc)^2] / scale^2 for the posterior N(m, v) of y: K = 200,000 particles, whose
    # error is about 4e-3; five of those.
    y = torch.tensor([0.3, 1.2, -0.5], dtype=torch.float64)
    v = 1 / (1 / 4 + len(y))
    m = v * float(y.sum())
    guide = MeanGuide().double()
    _, (loc, log_scale) = gradients(RowWakeSleep(200_000), Mean(), guide, {"y": y})
    assert float(loc) == pytest.approx(-m, abs=0.02)
    assert float(log_scale) == pytest.approx(1 - (v + m * m), abs=0.02)


def test_the_guides_gradient_of_a_batch_counts_as_often_as_there_are_batches():
    model, data = correlated()
    batch = {"x": data["x"][:10]}
    _, alone = gradients(RowWakeSleep(8), model.requires_grad_(True), linear_guide(), batch)
    whole = {**batch, "size": ROWS}
    _, standing = gradients(RowWakeSleep(8), model, linear_guide(), whole)
    for one, other in zip(alone, standing, strict=True):
        torch.testing.assert_close(4 * one, other)


def test_insomnia_is_the_share_of_the_wake_update():
    """The same random numbers: gradients of the guide are linear in it, those of the model the same."""
    model, data = correlated()
    model.requires_grad_(True)
    of = {
        insomnia: gradients(RowWakeSleep(8, insomnia), model, linear_guide(), data)[1]
        for insomnia in (0.0, 0.25, 1.0)
    }
    for asleep, mixed, awake in zip(*of.values(), strict=True):
        torch.testing.assert_close(mixed, 0.25 * awake + 0.75 * asleep)
    # -log q of a normal is at least log sd + half log 2 pi
    wide = MeanGuide()
    wide.log_scale.data.fill_(2.0)
    _, asleep = RowWakeSleep(8, 0.0)._loss(Mean(), wide, (), {"y": torch.zeros(3)})
    assert float(asleep.detach()) > 2 + 0.5 * np.log(2 * np.pi) - 1e-6
    assert RowWakeSleep().num_particles == 16 and RowWakeSleep().insomnia == 1.0
    assert RowWakeSleep(8, 0.25).insomnia == 0.25


def test_pixels_in_plates_of_their_own_count_as_those_of_an_event():
    class Pixels(nn.Module):
        def __init__(self, plate):
            super().__init__()
            self.plate = plate

        def forward(self, x):
            with pyro.plate("row", x.shape[0], dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                if not self.plate:
                    pixels = torch.cat([x, x], 1)
                    pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=pixels)
                    return
                with pyro.plate("pixel", 3, dim=-2), pyro.plate("eye", 2, dim=-3):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x.T.expand(2, 3, 2))

    class RowGuide(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.3))

        def forward(self, x):
            with pyro.plate("row", x.shape[0], dim=-1):
                pyro.sample("z", dist.Normal(self.slope * x.sum(-1), 0.5))

    data = {"x": torch.tensor([[0.1, 1.2, -0.4], [2.0, 0.7, 0.3]])}
    plate, event = (
        gradients(RowWakeSleep(8), Pixels(way), RowGuide(), data) for way in (True, False)
    )
    assert plate[0] == pytest.approx(event[0], abs=1e-5)
    torch.testing.assert_close(plate[1], event[1])


class Nested(nn.Module):
    """z, and x of the model, in two plates, or in that of the rows with events of two."""

    def __init__(self, plate, model):
        super().__init__()
        self.plate, self.model = plate, model
        self.loc = nn.Parameter(torch.tensor(0.4))

    def forward(self, x):
        if self.plate:
            with pyro.plate("row", 3, dim=-2), pyro.plate("column", 2, dim=-1):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                if self.model:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            return
        with pyro.plate("row", 3):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).expand((3, 2)).to_event(1))
            if self.model:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_the_outermost_plate_that_all_sites_share_is_that_of_the_rows():
    x = {"x": torch.tensor([[0.1, 1.2], [-0.4, 2.0], [0.7, 0.3]])}
    plate, event = (
        gradients(RowWakeSleep(8), Nested(way, True), Nested(way, False), x)
        for way in (True, False)
    )
    assert plate[0] == pytest.approx(event[0], abs=1e-5)
    torch.testing.assert_close(plate[1], event[1])


class Later(nn.Module):
    """A row's latent first, and after it one that all rows share: no plate holds both."""

    def forward(self, y, size=3):
        with pyro.plate("row", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", size, subsample=torch.arange(3)):
            pyro.sample("y", dist.Normal(mean + z, 1.0), obs=y)


class LaterGuide(MeanGuide):
    def forward(self, y, size=3):
        with pyro.plate("row", 3):
            pyro.sample("z", dist.Normal(self.loc, 1.0))
        pyro.sample("mean", dist.Normal(self.loc, self.log_scale.exp()))


def test_a_plate_of_the_first_site_alone_is_not_that_of_the_rows():
    y = {"y": torch.tensor([0.3, 1.2, -0.5])}
    ours = gradients(RowWakeSleep(8), Later(), LaterGuide(), y)
    pyros = ReweightedWakeSleep(num_particles=8, max_plate_nesting=1)
    theirs = gradients(pyros, Later(), LaterGuide(), y)
    assert ours[0] == pytest.approx(theirs[0][0], abs=1e-5)
    torch.testing.assert_close(ours[1], theirs[1])
    with pytest.raises(SettingError, match="plate over rows"):  # one of the plates is a mini-batch
        gradients(RowWakeSleep(8), Later(), LaterGuide(), {**y, "size": 6})


class Closed(nn.Module):
    """Data that are no argument: nothing simulated can be put in their place."""

    def forward(self):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.tensor(0.5))


def test_only_sleep_updates_need_the_data_as_an_argument():
    class Guide(MeanGuide):
        def forward(self):
            pyro.sample("mean", dist.Normal(self.loc, self.log_scale.exp()))

    assert np.isfinite(RowWakeSleep(8).loss(Closed(), Guide()))
    with pytest.raises(GuideError, match="insomnia=1"):
        RowWakeSleep(8, 0.5).loss(Closed(), Guide())


def test_a_mini_batch_stands_for_all_rows():
    # the batches of an epoch average to the loss of all rows, in expectation: K = 4000 particles
    # put the bound of a row within about 0.02 of its evidence
    model, data = correlated()
    guide = linear_guide()
    evidence = float(LinearGaussianPosterior(model).log_evidence(data["x"]).sum())
    objective, losses = RowWakeSleep(4000), []
    for start in range(0, ROWS, 10):
        pyro.set_rng_seed(start)
        batch = {"x": data["x"][start : start + 10], "size": ROWS}
        with pyro.get_param_store().scope():
            losses.append(objective.loss(model, guide, **batch))
    assert np.mean(losses) == pytest.approx(-evidence, abs=1.0)
    fit = wake_sleep(
        model, guide, data, batch_size=10, steps=20, progress=False, compile="graph"
    )  # fmt: skip
    assert np.isfinite(fit.history).all()
    assert fit.notes["batch_size"] == 10


def test_captured_and_reference_paths_agree():
    model, data = correlated()
    model.requires_grad_(True)  # Pyro's own SVI trains a frozen PyroModule too
    adam = pyro.optim.Adam(RATE)
    fits = [
        wake_sleep(
            model,
            linear_guide(),
            data,
            steps=15,
            optim=adam,
            compile=path,
            insomnia=0.5,
            progress=False,
        )
        for path in ("graph", False)
    ]
    np.testing.assert_allclose(fits[0].history, fits[1].history, rtol=1e-9)


def test_the_decoder_is_trained_by_the_importance_weighted_bound():
    # The bound is at most the evidence, whose maximum has a closed form; the trained model reaches it
    # to 0.05 nat a row, from 1.4 below.
    _, data = correlated()
    best = LinearVAE.maximum_likelihood(data["x"], D)
    top = float(LinearGaussianPosterior(best).log_evidence(data["x"]).detach().mean())
    torch.manual_seed(2)
    fresh = LinearVAE(P, D).double()
    before = float(LinearGaussianPosterior(fresh).log_evidence(data["x"]).detach().mean())
    fit = wake_sleep(fresh, linear_guide(), data, optim=pyro.optim.Adam({"lr": 0.02}), **OPTIONS)
    after = float(LinearGaussianPosterior(fit.model).log_evidence(data["x"]).detach().mean())
    assert before < top - 0.5
    assert top - 0.05 < after <= top + 1e-9


def test_bad_settings_are_named():
    model, data = correlated()
    with pytest.raises(SettingError, match="particles=1"):
        wake_sleep(model, linear_guide(), data, particles=1)
    with pytest.raises(SettingError, match="insomnia=2"):
        wake_sleep(model, linear_guide(), data, insomnia=2)
    y = {"y": torch.zeros(6)}
    with pytest.raises(SettingError, match="plate over rows"):
        wake_sleep(
            Mean(), MeanGuide(), y, batch_size=2, steps=1, progress=False, compile=False
        )  # fmt: skip
    with pytest.raises(GuideError, match="autoguide FullRank"):
        wake_sleep(Mean(), gb.guides.full_rank(Mean()), y, steps=1, progress=False)


def test_ctrl_c_keeps_what_there_is_and_the_checkpoint_continues_it(monkeypatch, tmp_path):
    model, data = correlated()
    path = tmp_path / "fit.checkpoint"

    def fit(**settings):
        return wake_sleep(
            model, linear_guide(), data, steps=60, compile="graph", progress=False, **settings
        )

    whole, advance = fit(), loop.advance

    def interrupted(step, done, upto, stop):
        done = advance(step, done, 20, stop)
        os.kill(os.getpid(), signal.SIGINT)
        return advance(step, done, upto, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", interrupted)
        stopped = fit(checkpoint=path)
    assert (stopped.status, stopped.engine) == (gb.Status.INTERRUPTED, "wake_sleep")
    assert stopped.notes["interrupted"] == "after 20 steps"
    np.testing.assert_array_equal(stopped.history, whole.history[:20])
    np.testing.assert_array_equal(fit(checkpoint=path).history, whole.history)


def test_an_iterable_of_batches_with_its_size():
    model, data = correlated()
    x = torch.as_tensor(data["x"])
    batches = [{"x": x[start : start + 10]} for start in range(0, len(x) // 10 * 10, 10)]
    fit = wake_sleep(
        model, linear_guide(), batches, size=len(x), steps=12, progress=False, compile="graph"
    )  # fmt: skip
    assert np.isfinite(fit.history).all() and fit.notes["size"] == len(x)

"""Row weights against the closed form, a loop over particles, and themselves recorded."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from guidebook.errors import ModelError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.graphs.recorded import record
from guidebook.scope import local_parameters


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)
    with local_parameters():
        yield


X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_exact_guide_has_the_log_evidence_of_each_row_as_every_weight():
    model = LinearVAE(5, 2).double()
    guide = LinearGaussianPosterior(model)
    found = row_log_weights(model, guide, {"x": X}, 7)
    expected = guide.log_evidence(X)
    assert found.shape == (7, 6)
    torch.testing.assert_close(found, expected.expand(7, 6), rtol=1e-9, atol=1e-9)
    one = row_log_weights(model, guide, {"x": X}, 1)
    torch.testing.assert_close(one, expected[None], rtol=1e-9, atol=1e-9)


class Remembered(torch.nn.Module):
    """The guide of the test, keeping the values it drew."""

    def __init__(self, guide):
        super().__init__()
        self.guide, self.values = guide, []

    def forward(self, **data):
        self.values.append(self.guide(**data))
        return self.values[-1]


def test_it_is_a_loop_over_particles_unscaled_by_size():
    model = VAE(5, 2, (4,)).double()
    guide = Remembered(AmortizedNormal(mlp((5, 4)), 2).double())
    x = X.sigmoid().round()
    found = row_log_weights(model, guide, {"x": x, "size": 60}, 3)
    (z,) = guide.values
    for k in range(3):
        for i in range(6):
            row = {"x": x[i : i + 1]}
            at = {"z": z[k, i : i + 1]}
            log_p = poutine.trace(poutine.condition(model, at)).get_trace(**row).log_prob_sum()
            log_q = poutine.trace(poutine.condition(guide.guide, at)).get_trace(**row)
            expected = log_p - log_q.log_prob_sum()
            torch.testing.assert_close(found[k, i], expected, rtol=1e-12, atol=1e-12)


def test_it_is_differentiable_and_recorded():
    model = VAE(5, 2, (4,)).double()
    guide = AmortizedNormal(mlp((5, 4)), 2).double()
    x = X.sigmoid().round()
    row_log_weights(model, guide, {"x": x}, 4).sum().backward()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad.abs().sum() > 0, name

    def weights(rows):
        return row_log_weights(model, guide, {"x": rows, "size": 60}, 4)

    with torch.no_grad():
        graph = record(weights, x)
        torch.manual_seed(3)
        eager = weights(x.flip(0))
        torch.manual_seed(3)
        torch.testing.assert_close(graph(x.flip(0)), eager, rtol=1e-12, atol=1e-12)


def two_plates(x, size=None):
    with pyro.plate("pixel", x.shape[1], dim=-2), pyro.plate("row", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x.T)


def test_other_plates_are_summed_and_names_are_the_users():
    def guide(x, size=None):
        with pyro.plate("pixel", x.shape[1], dim=-2), pyro.plate("row", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.T, 0.7))

    found = row_log_weights(two_plates, guide, {"x": X}, 4000, max_plate_nesting=2)
    assert found.shape == (4000, 6)
    # E_q[log w] = -E[z^2]/2 - E[(x - z)^2]/8 + entropies, with z ~ N(x, 0.49)
    log_two_pi = torch.tensor(2 * torch.pi, dtype=X.dtype).log()
    expected = (
        -0.5 * (X.square() + 0.49)
        - 0.49 / 8
        - torch.tensor(2.0).log()
        - log_two_pi
        + 0.5 * (log_two_pi + 1)
        + torch.tensor(0.7).log()
    ).sum(-1)
    error = found.std(0) / 4000**0.5
    assert bool(((found.mean(0) - expected).abs() < 5 * error).all())  # 6 rows: false alarm 3e-6


def test_a_site_that_rows_share_and_settings_are_refused():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0).expand([5]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(ModelError, match="'mu' is outside the plate 'row'"):
        row_log_weights(model, guide, {"x": X}, 1)
    with pytest.raises(SettingError, match="particles=0"):
        row_log_weights(model, guide, {"x": X}, 0)

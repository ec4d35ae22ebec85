"""The verdict on categorical latents of rows: enumeration is the truth, a missed state is not trusted."""

import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.inference.fits.status import Status
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.scope import local_parameters

P, K, N = 6, 3, 60


class Enumerated(nn.Module):
    """An encoder that gives the exact log p(z | x), up to a constant, plus a shift of the states."""

    def __init__(self, model: DiscreteVAE, shift: Tensor) -> None:
        super().__init__()
        self.known = [model]  # not registered: the parameters are the model's
        self.shift = nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        joint: Tensor = self.known[0].log_joint(x)
        return joint + self.shift


def fit_of(shift: list[float], twins: bool = False, sharp: float = 1.0) -> gb.Fit:
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(0)
        model = DiscreteVAE(P, 1, K, ()).requires_grad_(False)
    weight = sharp * torch.randn(P, K, generator=torch.Generator().manual_seed(1))
    if twins:  # states 0 and 1 decode to the same: equal posterior probabilities
        weight[:, 1] = weight[:, 0]
    model.decoder[0].weight.copy_(weight)
    model.decoder[0].bias.zero_()
    x = (torch.rand(N, P, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    with local_parameters():
        guide = AmortizedCategorical(Enumerated(model, torch.tensor(shift)), 1, K)
    return gb.Fit(
        model, guide, {"x": x}, torch.zeros(1).numpy(), Status.CONVERGED, 0, 0.0, "svi", ()
    )


def judged(fit: gb.Fit) -> tuple[Verdict, str]:
    found = gb.compare({"q": fit})
    return found.verdicts["q"], found.table.loc["q", "reason"]


def test_the_exact_posterior_is_trusted_and_the_reason_names_the_check() -> None:
    for sharp in (1.0, 8.0):  # 8: categories that are nearly certain
        verdict, reason = judged(fit_of([0.0] * K, sharp=sharp))
        assert verdict is Verdict.TRUST, reason
        assert "the exact log evidence" in reason


def test_a_guide_stuck_on_one_of_two_equal_states_is_not() -> None:
    """Its weights are constant, its k-hat perfect: the evidence alone tells, log 2 is missing."""
    verdict, reason = judged(fit_of([0.0, -60.0, 0.0], twins=True))
    assert verdict is Verdict.REJECT, reason


def test_a_guide_off_by_a_factor_is_not_trusted() -> None:
    verdict, reason = judged(fit_of([0.0, 1.5, 0.0]))
    assert verdict is not Verdict.TRUST, reason


def test_without_enumeration_the_reason_says_so() -> None:
    fit = fit_of([0.0] * K)
    fit.model.log_evidence = None
    found = gb.compare({"q": fit})
    assert found.verdicts["q"] is Verdict.REJECT
    assert "a missed mode cannot be detected" in found.table.loc["q", "reason"]
    assert "log_evidence" in found.table.loc["q", "next"]

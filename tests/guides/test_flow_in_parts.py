"""A flow without a gradient bends its draws in parts: the same draws and densities as all at once."""

import pytest
import torch
import zuko

from guidebook.guides.autoguides import flow as room


@pytest.mark.parametrize("dimension", [1, 3])
def test_draws_and_densities_in_parts(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    made = zuko.flows.NSF(dimension, transforms=1, hidden_features=[8])
    bent = zuko.lazy.Flow(made.transform.inv, made.base)
    monkeypatch.setattr(room, "AT_ONCE", 21)
    q = room._AffineOfFlow(bent(None), torch.ones(dimension), 2 * torch.ones(dimension))
    found = []
    for gradient in (True, False):
        torch.manual_seed(1)
        with torch.set_grad_enabled(gradient):
            u = q((50,))
            found.append((u.detach(), q.log_prob(u).detach(), q.log_prob(u.clone()).detach()))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[1][1], found[1][2], rtol=1e-3, atol=1e-3)

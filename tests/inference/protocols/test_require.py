"""The error for a guide that lacks what an engine asks for."""

import pytest

from guidebook.errors import GuideError
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.protocols.conditionals import CompleteConditionals
from guidebook.inference.protocols.conjugate import ConditionallyConjugate
from guidebook.inference.protocols.maximisation import ExpectationMaximization
from guidebook.inference.protocols.require import members, require
from guidebook.inference.protocols.sites import HasSites
from guidebook.models.mixture import GaussianMixture


class Half:
    sites = ("z",)

    def initial(self):
        pass


def test_the_members_of_a_protocol_in_the_order_in_which_they_are_written():
    assert members(CompleteConditionals) == ["sites", "initial", "sweep"]
    assert members(HasSites) == ["sites", "hold", "position"]
    assert members(ConditionallyConjugate)[:2] == ["families", "prior"]
    assert members(ExpectationMaximization)[-1] == "finished"


def test_what_is_missing_is_listed_with_the_remedy():
    with pytest.raises(
        GuideError, match=r"gibbs needs .*CompleteConditionals.*Half lacks sweep\. Do"
    ):
        require(Half(), CompleteConditionals, "gibbs", "Do this.")


def test_a_guide_with_all_of_them_is_handed_back():
    guide = MixtureMeanField(GaussianMixture(2, 1))
    for protocol in (CompleteConditionals, ConditionallyConjugate):
        assert require(guide, protocol, "engine", "") is guide
        assert isinstance(guide, protocol)

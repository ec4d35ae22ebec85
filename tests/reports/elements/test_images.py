"""Pictures as bytes: together small, whatever their number."""

import pytest

import guidebook as gb
from guidebook.reports.elements import images
from guidebook.reports.sections.general import general


def test_many_figures_are_drawn_coarser_to_stay_small(
    comparison: gb.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = general(comparison)
    assert section is not None
    fine = images.encoded(section.pictures)
    assert list(fine) == list(section.pictures)
    size = sum(len(image.source) for image in fine.values())
    monkeypatch.setattr(images, "MOST_BYTES", size // 2)
    coarse = images.encoded(section.pictures)
    assert sum(len(image.source) for image in coarse.values()) < 0.7 * size
    assert [i.width for i in coarse.values()] == [i.width for i in fine.values()]

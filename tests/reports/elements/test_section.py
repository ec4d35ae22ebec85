"""Sections: their anchors, and the order of their pictures."""

from matplotlib.figure import Figure

from guidebook.reports.elements.section import Section, drawn


def test_pictures_come_in_the_order_of_the_page() -> None:
    one, two, three = (drawn(title, "", Figure())[0] for title in "abc")
    nested = Section("in", pictures=[two], parts=[Section("deep", pictures=[three])])
    section = Section("out", pictures=[one], parts=[nested])
    assert [picture.title for picture in section.every_picture()] == ["a", "b", "c"]


def test_an_anchor_is_one_word() -> None:
    assert Section("The ELBO in its three forms!").anchor == "the-elbo-in-its-three-forms"


def test_nothing_to_draw_is_no_picture() -> None:
    assert drawn("a", "b", None) == []

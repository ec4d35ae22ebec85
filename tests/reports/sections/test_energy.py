"""The section of a Boltzmann machine: what it shows of a memory, and of a restricted machine."""

from dataclasses import replace

from guidebook.reports.sections.energy import energy


def test_a_memory_shows_means_recall_and_log_z(memory_comparison):
    section = energy(memory_comparison)
    assert [p.title for p in section.pictures] == [
        "Posterior means of the units", "Recall of stored patterns", "Energy during recall",
        "Recall against memory load", "Bounds on log Z",
    ]  # fmt: skip
    assert "by enumeration" in section.pictures[4].caption
    means = section.pictures[0].figure
    assert [axes.get_title(loc="center") for axes in means.axes] == ["seen", "mean-field", "exact"]


def test_a_restricted_machine_shows_weights_and_samples(machine_comparison):
    titles = [p.title for p in energy(machine_comparison).pictures]
    assert titles == ["Weights", "Data and samples", "Bounds on log Z"]


def test_without_a_truth_the_estimate_stands_in(memory_comparison):
    numbers = memory_comparison.energy
    unknown = replace(memory_comparison)
    normaliser = replace(numbers.normaliser, truth=None)
    unknown.__dict__["energy"] = replace(numbers, normaliser=normaliser)
    picture = energy(unknown).pictures[4]
    assert "estimated by annealed importance sampling" in picture.caption
    assert len(picture.figure.axes) == 1


def test_other_models_have_no_such_section(comparison):
    assert energy(comparison) is None

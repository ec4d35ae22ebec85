"""The model's graph and sites, or why there is no graph; and the data."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch

import guidebook as gb
from guidebook.reports.sections.data import data
from guidebook.reports.sections.model import model


def test_the_sites_are_a_table_under_the_graph(comparison: gb.Comparison) -> None:
    section = model(comparison)
    (table,) = section.tables
    assert len(section.pictures) == 1 and section.words == ""
    assert table.rows[0] == ["mu", "prior", "Normal(loc = 0, scale = 5)", "–", "–", "scalar"]
    assert table.rows[2] == ["y", "likelihood", "Normal(loc, scale)", "theta", "school", "4"]


def test_no_graph_has_a_reason(comparison: gb.Comparison) -> None:
    def chain() -> None:
        z = torch.tensor(0.0)
        for step in range(70):
            z = pyro.sample(f"z{step}", dist.Normal(z, 1.0))

    missing = model(replace(comparison, model=None))
    assert missing.words.startswith("No graph of the model: the comparison was made from files")
    long = model(replace(comparison, model=chain, data={}))
    assert "70 sites are too many" in long.words
    assert long.pictures == [] and len(long.tables[0].rows) == 70


def test_the_data_are_those_of_the_fits_or_of_the_files(comparison: gb.Comparison) -> None:
    section = data(comparison)
    assert section is not None
    assert list(section.tables[0].rows[1]) == ["y", "4", "float64", "28, 8, −3, 12"]
    files = data(replace(comparison, data=None))
    assert files is not None
    assert {row[0] for row in files.tables[0].rows} == {"y", "sigma"}
    assert data(replace(comparison, data={})) is None

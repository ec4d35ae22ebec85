"""The table of the ELBO's forms: what no row fills is left out."""

from guidebook.reports.sections.forms import forms, forms_table


def test_the_table_has_a_row_for_every_density(mixture_comparison):
    (table,) = forms(mixture_comparison).tables
    assert [row[0] for row in table.rows] == ["cavi", "exact"]
    assert all(len(row) == len(table.columns) == 10 for row in table.rows)
    kl = dict(zip(table.columns, table.rows[1], strict=True))["KL to posterior\nKL(q ‖ p(z | x))"]
    assert kl.split(" ")[0] == "0.000"  # exact


def test_columns_that_no_row_fills_are_left_out(mixture_comparison):
    bare = mixture_comparison.bounds["cavi"]._replace(log_evidence=None, posterior_kl=None)
    table = forms_table({"cavi": bare})
    assert [heading.split("\n")[0] for heading in table.columns] == [
        "Approximation", "Energy", "Entropy", "Data term", "KL to prior", "ELBO", "ELBO",
        "Free energy",
    ]  # fmt: skip
    assert all("±" in cell for cell in table.rows[0][1:])


def test_without_forms_there_is_no_section(amortized_comparison):
    assert forms(amortized_comparison) is None

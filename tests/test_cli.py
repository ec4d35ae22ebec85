"""The command line: what it prints and writes, and the one line that bad input gets."""

import subprocess
import sys
from pathlib import Path

import arviz_base
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from guidebook.__main__ import main
from guidebook.catalogue import PAIRS
from guidebook.reports.files import read_draws, write_netcdf

# Fits of few steps: what is looked at here is the way from the command to the files.
SHORT = ["--steps", "60", "--draws", "200"]


@pytest.fixture
def draws_file(tmp_path: Path) -> Path:
    """Independent standard normal draws with lp and log_q, as another tool would export them."""
    return write_normal(tmp_path / "draws.nc", seed=1)


def write_normal(path: Path, seed: int, name: str = "mu") -> Path:
    z = np.random.default_rng(seed).normal(size=(1, 500))
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    groups = {
        "posterior": {name: z},
        "sample_stats": {"lp": log_density - 1.0, "log_q": log_density},
    }
    write_netcdf(arviz_base.from_dict(groups), path)
    return path


def test_list_prints_the_shelf(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for pair in PAIRS.values():
        assert f"\n{pair.name}\n" in "\n" + out
        for guide in pair.guides:
            assert guide in out


def test_help_reads_no_heavy_module() -> None:
    program = (
        "import sys\n"
        "from guidebook.__main__ import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: print({'torch', 'pyro', 'xarray', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("set()")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "guidebook 0.1.0\n"


def test_report_writes_page_table_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reports"
    command = ["report", "eight-schools", "--out", str(out), "--guides", "mean-field", "--quick"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Left out for time (effort='quick')" in " ".join(printed.split())
    stages = [line.strip() for line in printed.splitlines() if line.endswith(" ...")]
    assert {"searching for modes ...", "judging mean-field ...", "judging NUTS ..."} <= set(stages)
    assert stages[-2:] == ["figures, and what the fits say of the model ...", "files of draws ..."]
    page = out / "eight-schools.html"
    assert printed.rstrip().splitlines()[-1] == str(page)
    html = page.read_text(encoding="utf-8")
    assert len(html) < 1_000_000
    assert "http://" not in html.replace("http://www.w3.org/", "")
    table = pd.read_csv(out / "eight-schools.csv", index_col="approximation")
    assert list(table.index) == ["mean-field", "NUTS"]
    assert table.loc["mean-field", "verdict"] in {"trust", "reweight", "reject"}
    assert sorted(path.name for path in out.iterdir()) == [
        "eight-schools-NUTS.nc",
        "eight-schools-mean-field.nc",
        "eight-schools.csv",
        "eight-schools.html",
    ]
    # The files it wrote are what `compare` reads, and say the same.
    files = [str(out / "eight-schools-mean-field.nc")]
    reference = str(out / "eight-schools-NUTS.nc")
    assert main(["compare", *files, "--reference", reference]) == 0
    assert "eight-schools-mean-field" in capsys.readouterr().out


def test_report_of_an_amortised_pair_compares_with_the_exact_posterior(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidebook.diagnostics.amortized.assess.MOST_ROWS", 200)
    monkeypatch.setattr("guidebook.diagnostics.amortized.assess.LEDGER_ROWS", 20)
    # painted in tests/reports, and by the report above
    monkeypatch.setattr("guidebook.reports.elements.images.png", lambda *_: b"")
    command = ["report", "linear-vae", "--out", str(tmp_path), "--guides", "linear-full"]
    assert main([*command, *SHORT]) == 0
    table = pd.read_csv(tmp_path / "linear-vae.csv", index_col="approximation")
    assert list(table.index) == ["linear-full", "exact"]
    # A lower bound of the evidence of one and the same model: the exact posterior attains it.
    assert table.loc["linear-full", "elbo"] < table.loc["exact", "elbo"]


def test_fit_writes_draws_or_the_fit(tmp_path: Path) -> None:
    import guidebook as gb

    common = ["fit", "linear-regression", "--guide", "mean-field", *SHORT]
    assert main([*common, "--out", str(tmp_path / "fit.nc")]) == 0
    assert main([*common, "--out", str(tmp_path / "fit.pt")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.nc", "fit.pt"]
    draws = read_draws(tmp_path / "fit.nc")
    fit = gb.load(tmp_path / "fit.pt", model=PAIRS["linear-regression"].model())
    xr.testing.assert_allclose(
        draws["posterior"].to_dataset(), fit.posterior(draws=200)["posterior"].to_dataset()
    )


def test_compare_reads_files_of_other_tools(
    tmp_path: Path, draws_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_normal(tmp_path / "other.nc", seed=2)
    out = tmp_path / "out"
    files = [str(draws_file), "--reference", str(other), "--out", str(out)]
    assert main(["compare", *files]) == 0
    assert str(out / "comparison.html") in capsys.readouterr().out
    table = pd.read_csv(out / "comparison.csv", index_col="approximation")
    assert list(table.index) == ["draws", "other"]
    assert table.loc["draws", "elbo"] == pytest.approx(-1.0)
    assert table.loc["draws", "mean_error"] < 0.2


def test_files_of_one_name_are_told_apart(
    tmp_path: Path, draws_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    other = write_normal(tmp_path / "there" / "draws.nc", seed=2)
    assert main(["compare", str(draws_file), str(other), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv", index_col="approximation")
    assert list(table.index) == [str(draws_file), str(other)]


def test_a_file_can_be_written_again_after_it_was_read(draws_file: Path) -> None:
    """Reading closes the file: nothing lazy keeps it open."""
    tree = read_draws(draws_file)
    write_netcdf(tree, draws_file)
    xr.testing.assert_identical(read_draws(draws_file)["posterior"], tree["posterior"])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["report", "eight-school", "--out", "out"], ["eight-school", "eight-schools"]),
        (["report", "vae", "--guides", "flw", "--out", "out"], ["flw", "mlp-full"]),
        (["fit", "eight-schools", "--guide", "flw", "--out", "x.nc"], ["flw", "'flow'"]),
        (["fit", "eight-schools", "--guide", "flow", "--out", "x"], [".nc", ".pt"]),
        (["report", "eight-schools", "--out", "a-file/out"], ["a-file/out", "--out"]),
        (["fit", "eight-schools", "--guide", "flow", "--out", "a-file/x.nc"], ["a-file"]),
        (
            ["fit", "eight-schools", "--guide", "flow", "--out", "x.nc", "--device", "abacus"],
            ["abacus", "cpu"],
        ),
        (["compare", "missing.nc"], ["missing.nc", "netCDF"]),
        (["compare", "a-file"], ["a-file", "netCDF"]),
        (["compare", "truncated.nc"], ["truncated.nc", "complete"]),
        (["compare", "prior.nc"], ["prior.nc", "posterior"]),
        (["compare", "draws.nc", "--reference", "nu.nc"], ["mu", "nu"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    command: list[str],
    words: list[str],
    tmp_path: Path,
    draws_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("not netCDF\n")
    content = draws_file.read_bytes()
    Path("truncated.nc").write_bytes(content[: len(content) * 2 // 3])
    write_normal(Path("nu.nc"), seed=2, name="nu")
    write_netcdf(arviz_base.from_dict({"prior": {"mu": np.zeros((1, 9))}}), Path("prior.nc"))
    before = sorted(tmp_path.rglob("*"))

    assert main(command) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "it/s" not in line]
    assert len(lines) == 1, error
    assert lines[0].startswith("guidebook: error: ")
    for word in words:
        assert word in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "wrong",
    [["--steps", "0"], ["--draws", "-1"], ["--seed", "-1"], ["--guides", ","], ["--steps", "many"]],
    ids=" ".join,
)
def test_settings_out_of_range(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", "eight-schools", "--out", "never", *wrong])
    assert stop.value.code == 2
    assert f"argument {wrong[0]}" in capsys.readouterr().err


def test_interrupt_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("guidebook.shelf.fitting.svi", interrupted)
    assert main(["report", "eight-schools", "--out", str(tmp_path)]) == 130
    error = capsys.readouterr().err
    assert "interrupted" in error
    assert "same command continues" in error

"""The report: every published cell stands where the paper has it, simulated data is named, nothing is fetched, what is missing says why."""

import json
import re

import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.paper import ledger, rating_reconstruction
from dsa_lib.report import html as html_report
from dsa_lib.report import readme, verdicts
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import begin
from dsa_lib.run.workspace import LAYOUT, PROJECT, Workspace, write_json

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fedccc59e70000000049454e44ae426082"
)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    return tmp_path


def opened(notebook):
    return begin(notebook, {"run": "t", "profile": "smoke", "archive": "", "overrides": {}, "In": [""]})


def curated(phantom=True):
    if phantom:
        study = opened("00_phantom_archive")
        study.write("archive").write_text("dicom")
        study.finish()
    study = opened("01_curation")
    if phantom:
        study.read("archive")
    study.write("figures/curation_series.png").write_bytes(PIXEL)
    study.finish()


def classified():
    study = opened("02_classifier")
    study.write("figures/figure1.png").write_bytes(PIXEL)
    published.write_table(study.write("tables/table1.csv"), published.contract(1, {("AC A", "Count"): 1234}, "phantom"))
    scores = [{"reference": "truth <all>", "split": "test", "precision": 0.93, "recall": 0.90, "accuracy": 0.96}]
    pd.DataFrame(scores).to_csv(study.write("classifier_metrics.csv"), index=False)
    study.note("metrics_published", {"precision": 0.92, "recall": 0.89, "accuracy": 0.95})
    study.finish()


def made():
    study = opened("90_report")
    html_report.write_report(study, study.write("report.html"))
    return (study.ws.root / "report.html").read_text()


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_phantom_and_simulated_ratings_are_named_before_any_result():
    curated()
    study = opened("06_reader_analysis")
    study.note("source", "simulated ratings")
    study.finish()
    page = made()
    assert page.index("every frame behind these results is simulated") < page.index('id="table1"')
    assert page.index("no clinician rated these images") < page.index('id="table1"')


@pytest.mark.parametrize("source, sentence", published.RATING_SOURCES.items())
def test_banner_and_figure_4_say_whose_ratings_they_show(source, sentence):
    curated(phantom=False)
    study = opened("06_reader_analysis")
    study.write("figures/figure4.png").write_bytes(PIXEL)
    study.note("source", source)
    study.finish()
    text = text_of(made()).replace("&#39;", "'")
    assert sentence in text
    assert re.search(r"Figure 4 · Reader study[^·]* · " + source + r"(?!, )", text)


def test_it_opens_with_whether_the_run_is_whole_and_what_was_found():
    curated()
    classified()
    opening = text_of(made()).split("Tables 1–5")[0]
    assert "Not complete: 3 of 9 notebooks of the study finished. First missing: 03_vae: has not run." in opening
    assert "Audits Not run (make audits)." in opening and "Distance" not in opening


@pytest.mark.parametrize("deficient", [True, False])
def test_the_distance_comes_with_its_interval_its_floor_and_its_mark(deficient):
    curated()
    study = opened("07_fid")
    row = {
        "row": "This run, overall",
        "measure": "DSA-feature distance",
        "images": 313.0,
        "value": 12.71,
        "low": 3.06,
        "high": 22.4,
    }
    row |= {"floor": 10.12, "floor_low": 0.0, "floor_high": 22.31, "rank_deficient": deficient}
    pd.DataFrame([row | {"row": "DARL", "value": 177.59, "rank_deficient": ""}, row]).to_csv(
        study.write("tables/table5_context.csv"), index=False
    )
    study.finish()
    opening = text_of(made()).split("Tables 1–5")[0]
    assert (
        "of 313 generated images to held-out frames: 12.7 [95 % 3.1 to 22.4]. Floor (frames of training patients): 10.1 [95 % 0.0 to 22.3]."
        in opening
    )
    assert ("rank-deficient" in opening) == deficient


def test_table_5_shows_no_distance_without_its_interval_floor_and_mark():
    distances = {
        ("This run (DSA-feature distance, dsa network)", "DSA-feature distance"): 12.714,
        ("This run, PC A", "DSA-feature distance"): 42.685,
    }
    shown = published.as_printed(5, published.contract(5, distances, "phantom"))
    row = {
        "measure": "DSA-feature distance",
        "value": 12.714,
        "low": 3.06,
        "high": 22.37,
        "floor": 10.12,
        "floor_low": 0.0,
        "floor_high": 22.31,
    }
    row |= {"row": "This run, overall", "rank_deficient": False, "source": "phantom"}
    few = row | {
        "row": "This run, PC A",
        "value": 42.685,
        "low": None,
        "high": None,
        "floor": 32.5,
        "floor_low": None,
        "floor_high": None,
        "rank_deficient": True,
    }
    found = verdicts.with_intervals(shown, pd.DataFrame([row | {"row": "DARL", "source": "published"}, row, few]))
    assert found.loc[("This run (DSA-feature distance, dsa network)", "this run")].tolist() == [
        "",
        "12.71 [3.06, 22.37]",
        "10.12 [0.00, 22.31]",
    ]
    assert found.loc[("This run, PC A", "this run")].tolist() == ["", "42.69*", "32.50"]
    assert found.loc[("DARL", "published")].tolist() == ["177.59", "", ""]


def test_an_archive_run_is_not_called_a_phantom():
    curated(phantom=False)
    page = made()
    assert "Archive run" in page and "Phantom run" not in page
    assert "00_phantom_archive" not in text_of(page).split("Table 1")[1].split("Provenance")[0]


def test_tables_show_published_this_run_and_difference():
    curated()
    classified()
    text = text_of(made())
    assert "AC A published 9,500 9.6 this run 1,234 difference −8,266" in text
    assert "PC A published 920 0.9 AC B" in text  # nothing is invented where this run has nothing
    assert "This run, from: phantom." in text
    assert "0.950 0.920 0.890" in text.replace("0.920 0.890 0.950", "0.950 0.920 0.890")
    assert "truth &lt;all&gt;" in text


def test_what_was_skipped_or_not_run_says_why():
    curated()
    with pytest.raises(SystemExit):
        opened("02_classifier").skip("one series has no annotation.")
    text = text_of(made())
    assert "Not made: one series has no annotation." in text
    assert "Table 5" in text and "notebook 07_fid has not run." in text
    assert "Figure 2 was not made" in text


def test_what_was_fitted_is_named_so_and_is_no_panel_of_figure_1():
    curated()
    classified()
    study = opened("31_paper_numbers")
    study.write("figures/paper_scale_figure1.png").write_bytes(PIXEL)
    table = pd.DataFrame(
        {
            "row": ["patients", "p"],
            "column": "Value",
            "published": [859, 0.97],
            "fitted": [859, 0.97],
            "source": "fitted",
        }
    )
    table.to_csv(study.write("tables/paper_scale_cohort.csv"), index=False)
    study.finish()
    page = made()
    assert "simulated records fitted to the published values" in page
    assert "Cohort at the study&#39;s size, fitted to the published values" in page
    assert ">859<" in page and ">0.970<" in page


def test_the_ledger_tells_its_findings_before_its_rows_and_takes_the_run_s_simulation():
    study = opened("31_paper_numbers")
    fitted = {"row": ["SD of age (years)"], "column": "Value", "published": 15.32, "fitted": 15.32, "source": "fitted"}
    pd.DataFrame(fitted).to_csv(study.write("tables/paper_scale_cohort.csv"), index=False)
    fitted = ledger.fitted_values({"cohort": study.ws.root / "tables/paper_scale_cohort.csv"})
    ledger.verdicts(fitted=fitted).to_csv(study.write("ledger.csv"), index=False)
    study.finish()
    page = made()
    text = text_of(page)
    assert 'href="#ledger"' in page and page.index('id="further"') < page.index('id="ledger"')
    order = [
        "The paper's own numbers",
        "The paper disagrees with itself",
        "351 are 41.15 % of 853",
        "In doubt in the paper",
        "verdict numbers statements",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "SD of age: 15.32, computed 15.32. reproduced by simulation : 15.32 in the simulated cohort" in text
    assert "share of women: 41.15 %, computed 40.8615 (+0.2885). recomputed: disagrees" in text
    assert "14 disagree with its other numbers" in text and "not this run" in text.split("Tables 1–5")[0]
    assert page.count("<ul") == page.count("</ul>")


def test_reconstructed_ratings_are_named_so_and_never_fill_a_table_of_this_run():
    curated()
    opened("06_reader_analysis").finish()
    study = opened("31_paper_numbers")
    frame = rating_reconstruction.fitted_tables(rating_reconstruction.open_shipped())[4]
    frame.to_csv(study.write("tables/reconstructed_table4.csv"), index=False)
    study.finish()
    page = made()
    assert "reconstructed: fitted to the published values, not the readers&#39; own" in page
    assert "no reader gave them" in page and rating_reconstruction.NAME.partition("'")[0] in page
    assert "notebook 06_reader_analysis did not write it" in text_of(page)  # Table 4 itself stays empty


def test_the_rounding_of_shares_is_told_wherever_table_1_stands():
    curated()
    classified()
    paper_scale = published.published(1).assign(fitted=1.0, source=published.FITTED)
    study = opened("31_paper_numbers")
    paper_scale.to_csv(study.write("tables/paper_scale_table1.csv"), index=False)
    study.finish()
    assert text_of(made()).count("add up to 100 (largest remainder)") == 2
    assert published.LARGEST_REMAINDER in readme.table(Workspace("t"), 1)
    assert (
        published.LARGEST_REMAINDER in html_report.contents(opened("90_report"))["tables"][0]["remark"]
    )  # printed by notebook 90
    for notebook in ("02_classifier", "31_paper_numbers"):
        assert "add up to 100 (largest remainder)" in (PROJECT / "notebooks" / "py" / f"{notebook}.py").read_text()
    assert published.LARGEST_REMAINDER in (PROJECT / "docs" / "results.md").read_text()


def test_the_page_needs_nothing_from_outside():
    curated()
    page = made()
    assert "data:image/webp;base64," in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//|file:)", page)
    assert "<script" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page


def test_a_stale_table_is_not_reported():
    curated()
    classified()
    Workspace("t").path("tables/table1.csv").write_text(
        "row,column,published,this_run,source\nAC A,Count,9500,9500,phantom\n"
    )
    with pytest.raises(StudyError, match=r"table1\.csv has changed since 02_classifier wrote it"):
        made()


def test_time_and_memory_are_summed_over_the_starts_of_a_run():
    ws = Workspace("t")
    starts = [{"seconds": 100, "peak_memory_bytes": 2**30}, {"seconds": 80, "peak_memory_bytes": 3 * 2**30}]
    ws.path("provenance/run.json").write_text(json.dumps({"invocations": starts}))
    assert html_report.cost(ws).startswith("3.0 min of wall time in 2 starts") and "3.0 GiB" in html_report.cost(ws)


def test_readme_is_filled_between_its_markers_and_nowhere_else():
    text = "before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n"
    filled = readme.fill(text, "results", "new \\1 row")
    assert filled == "before\n<!-- results:begin -->\nnew \\1 row\n<!-- results:end -->\nafter\n"
    assert readme.fill(filled, "results", "new \\1 row") == filled
    with pytest.raises(StudyError, match="markers 'times'"):
        readme.fill(text, "times", "x")


def test_readme_tells_times_memory_and_disk_as_they_were_measured():
    notebooks = {"00_phantom_archive": 48, "05_sampling": 175.2, "03_vae": 71, "06_reader_analysis": 7}
    machine = {"processor": "a processor", "cores": 2}
    measured = {
        "venv": {"seconds": 107},
        "reproduce": {"seconds": 466, "peak_memory_bytes": 3 * 2**30, "notebooks": notebooks, **machine},
        "disk": {"environment_bytes": 2.46e9, "run_bytes": 1.54e9},
    }
    block = readme.times(measured)
    assert "| `make reproduce` | 7.8 min |" in block and "`make disk`" not in block
    assert "2 cores (a processor)" in block and "3.0 GiB" in block and "2.5 GB" in block and "1.5 GB" in block
    assert block.index("05_sampling") < block.index("03_vae") and "06_reader" not in block


def test_readme_tells_the_quality_as_it_was_measured():
    measured = json.loads(readme.QUALITY.read_text())
    measured["autoencoder against the truth"] |= {"ridge medium": 0.4321, "psnr_truth_db": 39.96}
    measured["vessels, area, generated / held-out"]["peripheral"]["ratio"] = 1.234
    block = readme.quality(measured)
    assert "PSNR 40.0 dB" in block and " / 43 / " in block and block.endswith("/ 1.23 |")
    assert readme.quality(json.loads(readme.QUALITY.read_text())) in (PROJECT / "docs" / "results.md").read_text()


def test_readme_tells_what_the_audits_noted():
    ws = Workspace("t")
    noted = {"11_condition_adherence": {"adherence": "Named right in 3 of 4.", "angles": ["One.", "Two."]}}
    noted |= {"12_vessel_plausibility": {}, "13_memorisation": {"memorisation": "Not flagged."}}
    for notebook, facts in noted.items():
        write_json(ws.manifest_path(notebook), {"status": "finished", "layout": LAYOUT, "facts": facts})
    with pytest.raises(StudyError, match="14_utility of the run 't' has not finished"):
        readme.findings(ws)
    write_json(ws.manifest_path("14_utility"), {"status": "finished", "layout": LAYOUT, "facts": {}})
    first, second, _, fourth, *_ = readme.findings(ws).splitlines()
    assert first.endswith("* Named right in 3 of 4.") and second == "- *Angles.* One. Two."
    assert fourth == "- *Memorisation.* Not flagged."
    assert "- *Vessel plausibility.* No conclusion was drawn." in readme.findings(ws)


def test_readme_tables_come_from_the_runs_files():
    for number in published.TITLES:
        published.write_table(
            Workspace("t").path(f"tables/table{number}.csv"), published.contract(number, {}, "phantom")
        )
    published.write_table(
        Workspace("t").path("tables/table1.csv"), published.contract(1, {("AC A", "Count"): 77}, "phantom")
    )
    block = readme.results(Workspace("t"))
    assert "| AC A | published | 9,500 | 9.6 |\n|  | this run | 77 |  |\n|  | difference | −9,423 |  |" in block
    Workspace("t").path("tables/table3.csv").unlink()
    with pytest.raises(StudyError, match=r"table3\.csv is missing"):
        readme.results(Workspace("t"))


def test_the_pages_have_the_markers_and_readme_names_every_notebook_and_stays_short():
    pages = {path: (PROJECT / path).read_text() for path in readme.PAGES}
    for name in (*readme.BLOCKS, "verify", *(name for name, *_ in readme.EXTENSIONS)):
        assert any(
            f"<!-- {name}:begin -->" in text and readme.fill(text, name, "x") != text for text in pages.values()
        ), name
    assert all(f"`{name}`" in pages["README.md"] for name in EVERY)
    assert len(pages["README.md"].splitlines()) <= 150

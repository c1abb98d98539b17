"""A reference written from made-up runs, and runs held against it: tolerances by hand, their edges, and every refusal."""

import json
import shutil
import subprocess

import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.report import reference, verify
from dsa_lib.run import session
from dsa_lib.run.artifacts import REPRODUCED
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace

NUMBERS = {
    "patients": 6,
    "share": 8.8,
    "kept": 41,
    "mean AC A": 3.25,
    "mean PC A": 2.5,
    "icc": 0.41,
    "distance": 12.03125,
    "frames": 31,
    "psnr": 23.73,
    "verdict": "recomputed: agrees",
    "fitted": 0.49248,
    "ratings": "simulated ratings",
}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(session, "environment", lambda: {"torch": "0", "device": "CPU, 2 threads"})
    return tmp_path / "runs"


def opened(run, notebook, overrides=None, profile="smoke"):
    parameters = {"run": run, "profile": profile, "overrides": overrides or {}}
    return Study(notebook, run, load_profile(profile, overrides), None, parameters)


def table(study, number, source, cells):
    published.write_table(study.write(f"tables/table{number}.csv"), published.contract(number, cells, source))


def frame(study, file, **columns):
    """A CSV file of the columns; a single value stands in every row."""
    rows = max(len(values) if isinstance(values, list) else 1 for values in columns.values())
    pd.DataFrame(columns, index=range(rows)).to_csv(study.write(file), index=False)


def made(run, overrides=None, without=(), own_archive=False, profile="smoke", **changed):
    """A finished run with a few numbers in every file that is held, `NUMBERS` but for those `changed`."""
    n = NUMBERS | {name.replace("_", " "): value for name, value in changed.items()}
    for notebook in REPRODUCED:
        if notebook in without:
            continue
        study = opened(run, notebook, overrides, profile)
        if notebook == "00_phantom_archive":
            study.write("archive").write_text("dicom")
        if notebook == "01_curation":
            if not own_archive:
                study.read("archive")
            study.write("flow.json").write_text(
                json.dumps({"patients": n["patients"], "split": {"test": {"series": 8}}})
            )
        if notebook == "02_classifier":
            table(study, 1, "phantom", {("AC A", "Count"): 9, ("AC A", "Proportion (%)"): n["share"]})
            scores = dict(reference="truth", split=["val", "test"], series=[4, 8], n=[40, 80], precision=[1.0, 0.9])
            frame(study, "classifier_metrics.csv", **scores, recall=[0.875, 0.75], accuracy=[0.95, 0.5])
        if notebook == "03_vae":
            held, truth = f"against {n['frames']} held-out frames", f"against the truth of {n['frames'] - 2} of them"
            frame(study, "vae_quality.csv", measure="psnr_db", **{held: n["psnr"], truth: None})
        if notebook == "06_reader_analysis":
            table(study, 2, n["ratings"], {("AC A", "N_keep"): n["kept"], ("PC A", "N_keep"): 30})
            means = {("AC A", "Overall mean"): n["mean AC A"], ("PC A", "Overall mean"): n["mean PC A"]}
            table(study, 3, n["ratings"], means)
            table(study, 4, n["ratings"], {("Overall", "All raters ICC(2,1)"): n["icc"]})
        if notebook == "07_fid":
            table(study, 5, "phantom", {("Floor", "DSA-feature distance"): n["distance"]})
            sets = dict(scope="overall", set=["generated", "floor"], images=9, reference_images=18)
            frame(study, "fidelity.csv", **sets, distance=[n["distance"], 8.5], kid=[14.5, None])
        if notebook == "31_paper_numbers":
            for file in reference.FITTED:
                frame(study, file, row="Overall", column="Value", published=0.49, fitted=n["fitted"], source="fitted")
            frame(study, "ledger.csv", id=["abs.frames", "2.1.age"], verdict=[n["verdict"], "not checkable"])
        study.finish()
    return run


def written(folder, **changed):
    """A reference from three runs of different seeds, in which `changed` names the values of a number in the three."""
    names = []
    for place, seed in enumerate((None, 5, 6)):
        own = {name: values[place] for name, values in changed.items()}
        names.append(made(f"r{place}", {"seed": seed} if seed else None, **own))
    return reference.write(names, folder).set_index(reference.CELL)


def verdicts(run, folder, **options):
    return verify.compare(Workspace(run), folder=folder, **options).set_index(reference.CELL)["verdict"]


MEAN = "tables/table3.csv", "AC A", "Overall mean"
OTHER_MEAN = "tables/table3.csv", "PC A", "Overall mean"


# --- the reference ---


def test_what_is_exact_and_how_wide_the_others_are(tmp_path):
    values = written(tmp_path, mean_AC_A=[3.25, 3.26, 3.27], mean_PC_A=[2.5, 2.3, 2.7], patients=[6, 7, 8])
    exact = values["how"] == "exact"
    assert values.loc[exact, "tolerance"].isna().all() and (values.loc[~exact, "tolerance"] > 0).any()
    for cell in (
        ("flow.json", "patients", "Count"),
        ("flow.json", "split · test · series", "Count"),
        ("tables/table3.csv", "AC A", "Overall mean, published"),
        ("tables/table4.csv", "", "source"),
        ("tables/reconstructed_table3.csv", "Overall · Value", "fitted"),
        ("ledger.csv", "abs.frames", "verdict"),
        ("classifier_metrics.csv", "truth · test", "n"),
    ):
        assert exact[cell], cell
    assert (
        values.loc[("flow.json", "patients", "Count"), "value"] == "6"
    )  # of the first run; other seeds have other patients
    assert set(values.loc[~exact, "how"]) == {"4 SD of 3 runs"}
    # SD 0.2 and 0.01 by hand, their median 0.105; full precision has no unit of its own.
    assert values.loc[OTHER_MEAN, "tolerance"] == pytest.approx(4 * 0.2)
    assert values.loc[MEAN, "tolerance"] == pytest.approx(4 * 0.105)
    assert values.loc[MEAN, "value"] == "3.25"


def test_numbers_that_did_not_vary_keep_one_unit_of_their_last_digit(tmp_path):
    values = written(tmp_path)
    assert values.loc[("tables/table2.csv", "AC A", "N_keep"), "tolerance"] == 1
    assert values.loc[("tables/table1.csv", "AC A", "Proportion (%)"), "tolerance"] == pytest.approx(0.1)
    assert values.loc[("tables/table5.csv", "Floor", "DSA-feature distance"), "tolerance"] == 0  # 12.03125


def test_names_of_columns_do_not_hold_how_many_frames_there_were(tmp_path):
    values = written(tmp_path, frames=[31, 40, 29], psnr=[23.7, 23.9, 24.1])
    cell = values.loc[("vae_quality.csv", "psnr_db", "against held-out frames")]
    assert cell["value"] == "23.7" and cell["tolerance"] == pytest.approx(4 * 0.2)
    assert ("vae_quality.csv", "psnr_db", "against the truth") not in values.index  # empty in the run


def test_rows_of_one_name_enter_as_their_mean(tmp_path):
    path = tmp_path / "utility.csv"
    rows = {"task": "phase", "share": 0.25, "arm": ["real", "real", "both"], "auc": [0.25, 0.75, 0.5]}
    pd.DataFrame(rows).assign(balanced_accuracy=0.5).to_csv(path, index=False)
    held = next(held for held in reference.HELD if held.file == "utility.csv")
    found = reference._plain(held, path).set_index(["row", "column"])["value"]
    assert found["phase · 0.25 · real", "auc"] == "0.5" and found["phase · 0.25 · both", "auc"] == "0.5"


def test_a_reference_takes_three_runs_of_one_profile(tmp_path):
    one, two = made("one"), made("two", {"seed": 5})
    with pytest.raises(StudyError, match="over at least 3 runs: name 3 or more, the reference first"):
        reference.write([one, two, one], tmp_path)
    for name, options in {"other": {"overrides": {"readers.bootstrap": 20}}, "paper": {"profile": "phantom"}}.items():
        with pytest.raises(
            StudyError, match=f"{name!r} was made with other values than those of the profile smoke: only"
        ):
            reference.write([one, two, made(name, **options)], tmp_path)
    with pytest.raises(StudyError, match=r"'two' was made with other values .* and the first run with its seed too"):
        reference.write([two, one, made("three")], tmp_path)
    assert not (tmp_path / "smoke").exists()


def test_an_exact_number_that_varies_at_one_seed_stops_the_writing(tmp_path):
    names = made("one"), made("two", {"seed": 5}, patients=9), made("three", patients=7)
    with pytest.raises(
        StudyError, match=r"flow\.json, patients, Count should be the same .* is 6 in 'one' and 7 in 'three'"
    ):
        reference.write(names, tmp_path)


def test_the_sums_are_those_of_sha256sum_and_keep_other_profiles(tmp_path):
    written(tmp_path)
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "smoke/values.csv: OK" in done.stdout, done.stderr
    shutil.copytree(tmp_path / "smoke", tmp_path / "phantom")
    written(tmp_path)
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 4


# --- a run beside it ---


def test_the_runs_of_the_reference_agree_with_it(tmp_path):
    written(tmp_path, mean_AC_A=[3.25, 3.3, 3.2], icc=[0.41, 0.39, 0.4])
    assert set(verdicts("r0", tmp_path)) == {verify.AGREES}
    made("again", mean_AC_A=3.3, icc=0.38)
    assert set(verdicts("again", tmp_path)) == {verify.AGREES}


@pytest.mark.parametrize("off, verdict", [(1.0, verify.AGREES), (-1.0, verify.AGREES), (1.0001, verify.DIFFERS)])
def test_the_edge_of_a_tolerance_agrees(tmp_path, off, verdict):
    values = written(tmp_path, mean_AC_A=[3.25, 3.5, 3.0], mean_PC_A=[2.5, 2.75, 2.25])
    assert values.loc[MEAN, "tolerance"] == pytest.approx(1.0)
    made("edge", mean_AC_A=3.25 + off)
    found = verdicts("edge", tmp_path)
    assert found[MEAN] == verdict and set(found.drop([MEAN])) == {verify.AGREES}


@pytest.mark.parametrize(
    "cell, changed",
    [
        (("flow.json", "patients", "Count"), {"patients": 7}),
        (("ledger.csv", "abs.frames", "verdict"), {"verdict": "recomputed: disagrees"}),
        (("tables/reconstructed_table3.csv", "Overall · Value", "fitted"), {"fitted": 0.49249}),
        (("tables/table2.csv", "", "source"), {"ratings": "reader ratings"}),
        (("tables/table2.csv", "AC A", "N_keep"), {"kept": 43}),
        (("tables/table5.csv", "Floor", "DSA-feature distance"), {"distance": 12.04}),
    ],
)
def test_what_differs_is_found(tmp_path, cell, changed):
    written(tmp_path)
    found = verdicts(made("run", **changed), tmp_path)
    assert found[cell] == verify.DIFFERS


def test_the_last_bits_of_an_exact_number_do_not_matter(tmp_path):
    written(tmp_path)
    assert set(verdicts(made("run", fitted=0.49248 * (1 + 1e-12)), tmp_path)) == {verify.AGREES}


def test_numbers_that_only_some_runs_have_are_not_held(tmp_path):
    values = written(tmp_path, mean_AC_A=[3.25, None, 3.2])
    assert values.loc[MEAN, "how"].startswith("not held") and pd.isna(values.loc[MEAN, "tolerance"])
    for name, mean in (("with", 9.0), ("without", None)):
        found = verdicts(made(name, mean_AC_A=mean), tmp_path)
        assert found[MEAN] == verify.NOT_HELD and set(found.drop([MEAN])) == {verify.AGREES}


def test_a_number_that_is_missing_or_new_does_not_agree(tmp_path):
    written(tmp_path, mean_AC_A=[None] * 3)
    found = verdicts(made("run", mean_AC_A=3.0, mean_PC_A=None), tmp_path)
    assert found[MEAN] == verify.NEW and found[OTHER_MEAN] == verify.MISSING


def test_audits_are_held_where_run_and_reference_have_them(tmp_path):
    names = [made("r0"), made("r1", {"seed": 5}), made("r2", {"seed": 6})]

    def audited(run, rate, overrides=None):
        study = opened(run, "11_condition_adherence", overrides)
        frame(study, "adherence.csv", set="generated", scope="overall", images=24, rate=rate)
        study.finish()

    audited("r0", 0.5)
    assert "adherence.csv" not in set(reference.write(names, tmp_path).file)  # in one of three
    assert set(verdicts("r0", tmp_path)) == {verify.AGREES}
    audited("r1", 0.51, {"seed": 5})
    audited("r2", 0.49, {"seed": 6})
    assert "adherence.csv" in set(reference.write(names, tmp_path).file)
    assert set(verdicts(made("unaudited"), tmp_path)) == {verify.AGREES}
    audited("unaudited", 0.9)
    assert verdicts("unaudited", tmp_path)["adherence.csv", "generated · overall", "rate"] == verify.DIFFERS


# --- what cannot be compared ---


def refused(run, folder, match, **options):
    with pytest.raises(StudyError, match=match) as caught:
        verify.compare(Workspace(run), folder=folder, **options)
    assert "\n" not in str(caught.value)


def test_a_run_that_is_not_there_or_not_whole(tmp_path):
    refused("nothing", tmp_path, "there is no run 'nothing' in runs/: name a finished run with RUN=name")
    made("part", without=("06_reader_analysis", "31_paper_numbers"))
    refused(
        "part",
        tmp_path,
        "'part' is not whole, 06_reader_analysis, 31_paper_numbers have not finished: make reproduce RUN=part PROFILE=smoke",
    )
    study = opened("part", "06_reader_analysis")
    with pytest.raises(SystemExit):
        study.skip("no image")
    made("part", without=("06_reader_analysis",))
    refused("part", tmp_path, "'part' is not whole, 06_reader_analysis has not finished")


def test_a_reference_of_another_profile(tmp_path):
    written(tmp_path)
    refused(
        "r0",
        tmp_path,
        "is of the profile smoke and cannot be held against the reference of phantom: leave",
        profile="phantom",
    )
    made("other", profile="phantom")
    refused(
        "other", tmp_path, "there is no reference of the profile 'phantom', only of smoke: write one from finished runs"
    )


def test_a_run_with_other_values_of_the_profile(tmp_path):
    written(tmp_path)
    refused(
        "r1",
        tmp_path,
        r"'r1' was made with other values of the profile smoke than the reference \(overrides, another seed",
    )
    made("mixed")
    opened("mixed", "90_report", {"readers.bootstrap": 20}).finish()  # one notebook by hand
    refused("mixed", tmp_path, "'mixed' was made with other values")


def test_a_run_of_an_archive_of_its_own(tmp_path):
    written(tmp_path)
    refused(
        made("own", own_archive=True),
        tmp_path,
        "'own' is of an archive of its own: a reference holds for the phantom archive alone",
    )


def test_a_table_that_was_edited_since_it_was_written(tmp_path, runs):
    written(tmp_path)
    path = runs / "r0" / "tables" / "table3.csv"
    path.write_text(path.read_text().replace("3.25", "3.26"))
    refused("r0", tmp_path, r"tables/table3\.csv has changed since 06_reader_analysis wrote it")


def test_a_run_that_has_become_stale(tmp_path):
    written(tmp_path)
    study = opened("r0", "00_phantom_archive")
    study.write("archive").write_text("another archive")
    study.finish()
    refused("r0", tmp_path, r"flow\.json is stale: archive has been regenerated since")


@pytest.mark.parametrize("name", ["values.csv", "about.json"])
def test_a_reference_that_was_edited(tmp_path, name):
    written(tmp_path)
    path = tmp_path / "smoke" / name
    path.write_text(path.read_text().replace("4", "5", 1))
    refused("r0", tmp_path, rf"reference/smoke/{name} is not the file that SHA256SUMS beside it lists: restore both")
    path.unlink()
    if name == "about.json":
        refused("r0", tmp_path, rf"reference/smoke/{name} is not the file")


def test_a_reference_without_its_sums(tmp_path):
    written(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    refused("r0", tmp_path, r"about\.json is not the file that SHA256SUMS beside it lists")


# --- the command ---


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """`main` with arguments and the reference in `tmp_path`: (exit status, output, errors)."""
    compare = verify.compare
    monkeypatch.setattr(verify, "compare", lambda ws, profile: compare(ws, profile, tmp_path))

    def said(*arguments):
        monkeypatch.setattr("sys.argv", ["verify", *arguments])
        capsys.readouterr()
        return verify.main(), *capsys.readouterr()

    return said


def test_the_command_tells_what_agrees(tmp_path, said):
    written(tmp_path, mean_AC_A=[3.25, 3.5, 3.0], mean_PC_A=[2.5, 2.75, 2.25])
    made("run", mean_AC_A=3.0)
    status, output, errors = said("run")
    assert (status, errors) == (0, "")
    last = output.splitlines()[-1]
    assert last.startswith("The run run reproduces Tables 1–5 of the reference of the profile smoke: ")
    assert "within the tolerance measured between runs (the farthest at 25 % of its tolerance)" in last
    (line,) = [line for line in output.splitlines() if line.startswith("tables/table3.csv")]
    published_cells = published.published(3)["published"].notna().sum() + 1  # and the source
    assert line.split() == ["tables/table3.csv", str(published_cells), "2", "0", "0.25"]


def test_the_command_lists_what_does_not(tmp_path, said):
    written(tmp_path)
    status, output, errors = said(made("run", kept=50, verdict="recomputed: disagrees"))
    assert (status, errors) == (1, "")
    assert output.splitlines()[-1].startswith(
        "The run run does not reproduce the reference of the profile smoke: 2 of "
    )
    assert output.splitlines()[-1].endswith(" numbers do not agree (tables/table2.csv, ledger.csv).")
    (line,) = [line for line in output.splitlines() if "N_keep" in line]
    assert line.split() == ["tables/table2.csv", "AC", "A", "N_keep", "41.0", "50.0", "1.0", "differs"]


def test_the_command_refuses_in_one_sentence(tmp_path, said):
    status, output, errors = said("nothing")
    assert (status, output) == (2, "") and len(errors.splitlines()) == 1 and errors.startswith("error: there is no run")


# --- the references that ship ---


@pytest.mark.parametrize("profile", sorted(path.parent.name for path in reference.FOLDER.glob("*/values.csv")))
def test_a_reference_that_ships_is_of_the_profile_as_it_is(profile):
    values, about = reference.read(profile)
    assert about["profile_digest"] == load_profile(profile).digest(), "write the reference of this profile anew"
    assert len(about["runs"]) >= reference.FEWEST_RUNS
    exact = values["how"] == "exact"
    assert values.loc[exact | values["how"].str.startswith("not held"), "tolerance"].isna().all()
    assert (values["tolerance"].dropna() >= 0).all()
    cells = values.set_index(reference.CELL)["value"]
    for number in published.TITLES:
        for row, column, printed in published.published(number).itertuples(index=False):
            if pd.notna(printed):
                assert float(cells[f"tables/table{number}.csv", row, f"{column}, published"]) == printed

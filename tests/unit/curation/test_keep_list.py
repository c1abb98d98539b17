"""What leaves the archive's folder: the keep-list, the transformations, the review of burned-in text, and a search of a whole run for planted identifiers."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from planted import make_archive, written
from xa_maker import make_xa

from dsa_lib.curation import cohort, keep_list
from dsa_lib.curation import identifier_search as search
from dsa_lib.dicom import series as dicom_series
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import PROJECT, Workspace

SETTINGS = Curation(image_size=64, workers=1)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return Workspace("test")


# --- the keep-list ----------------------------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_on_the_list_is_refused():
    table = pd.DataFrame({"file": ["F0123456789"], "reason": "x", "remedy": "y"})
    assert keep_list.kept_only("quarantine.csv", table) is table
    with pytest.raises(StudyError, match=r"quarantine\.csv would hold path, which is not on the keep-list"):
        keep_list.kept_only("quarantine.csv", table.assign(path="Muster/1.dcm"))
    with pytest.raises(StudyError, match="keep-list"):
        keep_list.kept_only("flow.json", {"files found": 1, "patient names": ["x"]})


def test_a_pseudonym_must_be_one():
    with pytest.raises(StudyError, match="a file that is not a keyed hash"):
        keep_list.kept_only("quarantine.csv", pd.DataFrame({"file": ["F0123456789", "Muster.dcm"]}))


def test_curation_cannot_write_past_the_list(tmp_path, workspace, monkeypatch):
    (tmp_path / "archive").mkdir()
    make_xa(tmp_path / "archive" / "a", np.full((2, 16, 16), 2000, np.uint16))
    for name in ("flow.json", "frames.parquet", "series.parquet", "quarantine.csv"):
        shorter = dict(list(keep_list.KEPT[name].items())[1:])
        monkeypatch.setitem(keep_list.KEPT, name, shorter)
        workspace.path(name).unlink(missing_ok=True)
        with pytest.raises(StudyError, match=f"{name} would hold"):
            cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
        assert not workspace.path(name).exists()
        monkeypatch.undo()
        monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))


def test_the_list_names_what_is_written_and_no_more(tmp_path, workspace):
    (tmp_path / "archive").mkdir()
    for number, text in enumerate(("ICA re", "AV li", "Kontrolle")):
        make_xa(tmp_path / "archive" / str(number), np.full((2, 16, 16), 2000, np.uint16), SeriesDescription=text)
    cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    for name in ("series.parquet", "frames.parquet"):
        assert set(pd.read_parquet(workspace.path(name)).columns) == set(keep_list.KEPT[name])
    assert list(pd.read_csv(workspace.path("quarantine.csv")).columns) == list(keep_list.KEPT["quarantine.csv"])
    assert set(json.loads(workspace.path("flow.json").read_text())) == set(keep_list.KEPT["flow.json"])


def test_the_statement_is_the_keep_list():
    text = (PROJECT / "data_manifests" / "schemas" / "deidentification.md").read_text()
    assert text.endswith("## The list\n\n" + keep_list.keep_list())
    assert f"({Curation().oldest_age})" in text


# --- transformations --------------------------------------------------------------------------------------------------------------------------


def test_dates_become_days_from_the_first_study_of_the_patient():
    series = pd.DataFrame(
        {
            "series": list("abcdefg"),
            "patient": ["P1", "P1", "P1", "P2", "P2", "P3", "P4"],
            "study_date": ["20200301", "20200228", "20210228", "2019.12.31", "", "garbage", "20200230"],
            "age": [89, 90, 91, 18, None, 104, 0],
        }
    )
    table = keep_list.generalised(series, oldest_age=90)
    # 2020 is a leap year: 28 February to 1 March are two days, to 28 February of the next year 366. 30 February is no date.
    assert table["study_offset_days"].fillna(-1).tolist() == [2, 0, 366, 0, -1, -1, -1]
    assert table["age"].fillna(-1).tolist() == [89, 90, 90, 18, -1, 90, 0]
    assert "study_date" not in table
    assert keep_list.generalised(series, oldest_age=120)["age"].max() == 104


def test_offsets_count_from_the_first_study_even_if_it_was_excluded(tmp_path, workspace):
    (tmp_path / "archive").mkdir()
    for number, (text, day) in enumerate([("ECA", "20200101"), ("ICA re", "20200111"), ("ICA li", "")]):
        make_xa(tmp_path / "archive" / str(number), np.full((2, 16, 16), 2000, np.uint16), SeriesDescription=text, StudyDate=day)  # fmt: skip
    table = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1).series
    offsets = table.set_index(["kept", "matched_term"])["study_offset_days"]
    assert offsets.dropna().to_dict() == {(False, "eca"): 0, (True, "ica"): 10}
    assert table["study_offset_days"].isna().sum() == 1


# --- burned-in text and overlays --------------------------------------------------------------------------------------------------------------


def noisy(text: str | None = None, seed: int = 0) -> np.ndarray:
    frames = np.random.default_rng(seed).normal(2000, 40, (4, 96, 96))
    return np.where(written(text, 14) > 128 if text else False, 4095, frames).astype(np.uint16)


def test_files_with_burned_in_annotation_are_held_back_until_a_person_clears_them(tmp_path, workspace):
    archive = tmp_path / "archive"
    archive.mkdir()
    make_xa(archive / "clean", noisy())
    make_xa(archive / "says_no", noisy("MUSTER ERIKA", 1), BurnedInAnnotation="NO")
    make_xa(archive / "says_yes", noisy(seed=2), BurnedInAnnotation="YES")
    make_xa(archive / "excluded", noisy(seed=3), BurnedInAnnotation="YES", SeriesDescription="ECA")
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert found.key.loc[found.key["series"].isin(found.series.query("kept")["series"]), "file"].tolist() == ["clean"]
    assert found.flow["quarantined"] == {
        "burned-in text is likely": 1,
        "the header says that annotation is burned into the image": 1,
    }
    assert sum(found.flow["excluded"].values()) == 1  # none of its pixels leaves: nobody need look at it
    listed = pd.read_csv(workspace.private("quarantine_files.csv")).set_index("path")
    assert "(upper centre)" in listed.loc["says_no", "remedy"]
    assert "private/reviewed.csv" in listed.loc["says_yes", "remedy"]
    assert len(list(workspace.checkpoints("curation").glob("*.npy"))) == 1

    workspace.private("reviewed.csv").write_text(f"file,by\n{listed.loc['says_no', 'file']},EM\n")
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert (found.flow["series kept"], len(found.quarantine)) == (2, 1)
    # What a person cleared is that file, and no other one put in its place.
    cleared = archive / "says_no"
    content = cleared.read_bytes()
    make_xa(cleared, noisy("MUSTER MARTHA 1931", 5))
    assert cohort.curate(archive, workspace, SETTINGS, seed=1).flow["series kept"] == 1
    cleared.write_bytes(content)
    cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert cohort.curate(archive, workspace, SETTINGS, seed=1).flow["series kept"] == 2  # looked for anew, then cleared
    # Taken off the list it is held back again, and its pixels go.
    workspace.private("reviewed.csv").write_text("file\n")
    assert cohort.curate(archive, workspace, SETTINGS, seed=1).flow["series kept"] == 1
    assert len(list(workspace.checkpoints("curation").glob("*.npy"))) == 1
    # So do those of a file that has left the archive.
    (archive / "clean").unlink()
    with pytest.raises(StudyError, match="no series of the archive can be used"):
        cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert not list(workspace.checkpoints("curation").glob("*.npy"))


def test_a_review_file_of_another_form_is_named(workspace):
    workspace.private("reviewed.csv").write_text("F0123456789\n")
    with pytest.raises(StudyError, match=r"private/reviewed\.csv has no column file"):
        keep_list.reviewed(workspace)


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_never_reach_the_pixels(tmp_path, signed):
    kind = np.int16 if signed else np.uint16
    # Different in each frame, as moving contrast is: what is the same in all would be called text or taken away with the mask.
    frames = np.random.default_rng(3).integers(-1500 if signed else 500, 1500, (3, 96, 96)).astype(kind)
    drawing = np.stack([np.roll(written("MUSTER", 14), shift, axis=0) > 128 for shift in (0, 20, 40)])
    plain = make_xa(tmp_path / "plain", frames, PixelIntensityRelationship="LOG")
    # Old systems kept overlays in the bits above the stored ones; sign bits, too, are none of the value's.
    embedded = (frames & 0x0FFF) | np.where(drawing, np.array(0x7000, kind), np.array(0, kind))
    make_xa(tmp_path / "embedded", embedded.astype(kind), PixelIntensityRelationship="LOG")
    for group in (0x6000, 0x6002):
        for element, vr, value in (
            (0x10, "US", 96), (0x11, "US", 96), (0x15, "IS", "3"), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
            (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", np.packbits(drawing, bitorder="little").tobytes()),
        ):  # fmt: skip
            plain.add_new((group, element), vr, value)
    plain.save_as(tmp_path / "overlaid", enforce_file_format=True)
    runs = {}
    for name in ("plain", "embedded", "overlaid"):
        path = tmp_path / name
        runs[name] = dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), 96, 162, 0.008)
    assert np.ptp(runs["plain"].frames) > 50
    for name in ("embedded", "overlaid"):
        assert np.array_equal(runs[name].frames, runs["plain"].frames) and runs[name].text == ()


# --- a whole run ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory):
    """Curation, notebook 01 and all, of an archive full of planted identifiers, as make calls it (about 20 s)."""
    folder = tmp_path_factory.mktemp("planted")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needles, patterns = make_archive(folder / "archives")
    (archive,) = (folder / "archives").iterdir()
    command = [sys.executable, "workflow/launch.py", "--run", "mine", "--profile", "smoke", "--archive", str(archive)]
    done = subprocess.run(
        [*command, "--snakemake", "--cores 1 --until notebook_01_curation"],
        cwd=PROJECT, env=os.environ | {"DSA_RUNS": str(folder / "runs")}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    needles.append(search.Needle("path of the archive", str(archive)))
    return folder / "runs" / "mine", archive, needles, patterns


def test_every_fate_is_among_the_planted(planted_run):
    run, _, _, _ = planted_run
    series = pd.read_parquet(run / "series.parquet")
    assert set(series.loc[series["kept"], "circulation"]) == {"anterior", "posterior"}
    assert series.loc[~series["kept"], "reason"].nunique() == 3
    assert set(pd.read_csv(run / "quarantine.csv")["reason"]) == {
        "not a DICOM file", "not an X-ray angiography image", "an unknown photometric interpretation", "the pixel data cannot be decoded",
        "a header value cannot be read", "an identical copy of another file", "another image bears the same SOP instance UID",
        "a link that leads nowhere", "burned-in text is likely", "the header says that annotation is burned into the image",
    }  # fmt: skip
    assert (run / "notebooks" / "01_curation.ipynb").exists() and (run / "logs" / "01_curation.log").exists()


def test_no_planted_identifier_is_outside_private(planted_run):
    run, archive, needles, patterns = planted_run
    found = search.find_identifiers(run, needles, patterns=patterns, scales=(1.0, 64 / 96, 2.0))
    assert found.files > 20
    assert found.hits == []
    # The executed notebook has its pictures and results, so there was something to search.
    text = (run / "notebooks" / "01_curation.ipynb").read_text()
    assert "image/png" in text and "private:archive" in text and str(archive.parent) not in text


def test_the_same_search_finds_them_in_the_archive_and_in_private(planted_run):
    run, archive, needles, _ = planted_run
    in_archive = {hit.kind for hit in search.find_identifiers(archive, needles, leave_out=()).hits}
    planted = {needle.kind for needle in needles}
    # Not found there: what a later value replaced, dates whose next byte happens to be a digit, and the path itself.
    assert len(in_archive & planted) > 0.97 * len(planted)
    kept = {kind.rpartition(" ")[2] for kind in in_archive if kind.startswith("anterior: ")}
    assert {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT", "DA", "DT", "TM", "IS", "DS"} <= kept
    for place in ("nested twice", "functional group", "private SQ", "private UN", "overlay label", "file meta AE", "preamble", "file name"):  # fmt: skip
        assert f"quarantined: value: {place}" in in_archive
    in_private = {hit.kind for hit in search.find_identifiers(run / "private", needles, leave_out=()).hits}
    assert {"anterior: PatientID", "anterior: SOP", "anterior: file name", "path of the archive"} <= in_private


def test_the_search_sees_a_leak_into_any_artifact_of_the_run(planted_run, tmp_path):
    run, _, needles, patterns = planted_run
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    secret = next(needle.text for needle in needles if needle.kind == "posterior: PatientID")
    series = pd.read_parquet(copy / "series.parquet")
    series["reason"] = series["reason"].where(series.index > 0, f"of {secret}")
    series.to_parquet(copy / "series.parquet")
    frames = np.load(copy / "frames.npy")
    (overlay,) = (np.asarray(patterns["burned-in text"]) > 128,)
    frames[2, 10 : 10 + overlay.shape[0], : overlay.shape[1]][overlay[:, :64]] = 255
    np.save(copy / "frames.npy", frames)
    for name in ("quarantine.csv", "flow.json", "logs/01_curation.log", "notebooks/01_curation.ipynb"):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace("e", f"e {secret}", 1))
    hits = search.find_identifiers(copy, needles, patterns={"pattern": patterns["burned-in text"][:, :64]}, scales=(1.0,)).hits  # fmt: skip
    assert {hit.file for hit in hits} == {
        "series.parquet", "frames.npy", "quarantine.csv", "flow.json", "logs/01_curation.log", "notebooks/01_curation.ipynb",
    }  # fmt: skip


def test_the_command_says_where_and_never_what(planted_run, tmp_path, monkeypatch, capsys):
    run, archive, _, _ = planted_run
    monkeypatch.setenv("DSA_RUNS", str(run.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert keep_list.main(["mine"]) == 0
        assert ": 0 hits" in capsys.readouterr().out
        shutil.copytree(run, tmp_path / "leaky", symlinks=True)
        monkeypatch.setenv("DSA_RUNS", str(tmp_path))
        name = next(path.stem for path in archive.rglob("*.dcm"))
        (tmp_path / "leaky" / "tables").mkdir(exist_ok=True)
        (tmp_path / "leaky" / "tables" / "x.csv").write_text(f"a\n{name}\n")
        assert keep_list.main(["leaky"]) == 1
    out = capsys.readouterr().out
    assert "tables/x.csv\tfile or folder name\ttext" in out and name not in out
    assert keep_list.main(["nobody"]) == 2
    shutil.rmtree(tmp_path / "leaky" / "private")
    assert keep_list.main(["leaky"]) == 2
    assert "--archive" in capsys.readouterr().err


def test_private_is_open_to_its_owner_alone(planted_run):
    run, _, _, _ = planted_run
    for path in ((run / "private"), *(run / "private").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path

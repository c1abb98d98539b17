"""Filter flow, pseudonyms, split and Table 1: counts on random archives, hand-worked cases, resume, and a search for identifiers."""

import hashlib
import hmac
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import generate_uid
from scipy import stats
from xa_maker import make_xa

from dsa_lib.core import published
from dsa_lib.curation import archive_files, bounded_pool, cohort
from dsa_lib.dicom import series as dicom_series
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace, write_json

SETTINGS = Curation(image_size=16, workers=1)
KINDS = {
    "ICA re": "kept",
    "AV li": "kept",
    "ECA re": "other territory: external carotid artery",
    "Aortenbogen": "other territory: aortic arch",
    "Kontrolle": "no vessel named: annotate by hand",
    "ICA / VA": "contradictory vessels named: annotate by hand",
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return Workspace("test")


def write_archive(folder: Path, seed: int, files: int = 24) -> dict[str, int]:
    """A random archive of good, excluded and broken files; returns what each kind should be counted as."""
    rng = np.random.default_rng(seed)
    expected: dict[str, int] = {}
    for number in range(files):
        path = folder / f"Muster_{rng.integers(3)}" / f"{number:03d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = rng.integers(1500, 2500, (3, 16, 16), dtype=np.uint16)
        kind = str(rng.choice([*KINDS, "rotation", "text", "truncated", "other class"]))
        elements = {
            "PatientID": f"MRN{number % 6}",
            "StudyInstanceUID": generate_uid(entropy_srcs=[str(number % 7)]),
            "SOPInstanceUID": generate_uid(entropy_srcs=[str(seed), str(number)]),
            "ImageType": ["ORIGINAL", "PRIMARY", f"BIPLANE {'AB'[number % 2]}"],
            "PositionerPrimaryAngle": str(rng.choice([0, -90, 30])),
        }
        outcome = KINDS.get(kind, "quarantined")
        if kind in KINDS:
            make_xa(path, frames, SeriesDescription=kind, **elements)
        elif kind == "rotation":
            make_xa(path, frames, PositionerMotion="DYNAMIC", **elements)
            outcome = "rotational run: the view changes"
        elif kind == "text":
            path.write_text("Befund: Muster, Erika")
        elif kind == "truncated":
            make_xa(path, frames, **elements)
            path.write_bytes(path.read_bytes()[:-700])
        else:
            make_xa(path, frames, **(elements | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}))
        expected[outcome] = expected.get(outcome, 0) + 1
    return expected


def outputs(workspace: Workspace) -> dict[str, bytes]:
    names = ("series.parquet", "frames.parquet", "frames.npy", "quarantine.csv", "flow.json")
    return {name: workspace.path(name).read_bytes() for name in names}


def test_the_flow_is_written_as_returned(tmp_path, workspace):
    write_archive(tmp_path / "archive", 0)
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    assert json.loads(workspace.path("flow.json").read_text()) == found.flow


def test_the_first_files_alone_are_read_and_the_rest_of_an_earlier_call_is_kept(tmp_path, workspace):
    archive = tmp_path / "archive"
    write_archive(archive, 0)
    few = cohort.curate(archive, workspace, SETTINGS, seed=1, most_files=15)
    first = sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*.dcm"))[:15]
    assert set(few.key["file"]) <= set(first)
    assert (few.flow["files found"], few.flow["files left out"]) == (15, 9)
    assert len(few.series) + len(few.quarantine) == 15
    whole = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert whole.flow["files found"] == 24 and whole.flow["files left out"] == 0
    read = set(workspace.private("curation").glob("*.json"))
    cohort.curate(archive, workspace, SETTINGS, seed=1, most_files=15)
    assert len(read) == 24 and set(workspace.private("curation").glob("*.json")) == read
    assert json.loads(workspace.path("flow.json").read_text()) == few.flow


def spoil_found(found):
    found.flow["files found"] += 1


def spoil_excluded(found):
    found.series.loc[found.series["kept"].idxmin(), "reason"] = ""


def spoil_stored(found):
    found.flow["split"]["train"]["frames"] -= 1


def spoil_split(found):
    patient = found.series.loc[found.series["kept"], "patient"].value_counts().index[0]
    rows = found.series.index[found.series["kept"] & (found.series["patient"] == patient)]
    found.series.loc[rows[0], "split"] = "another"


@pytest.mark.parametrize(
    ("spoil", "sum_"),
    [
        (spoil_found, r"\(read \+ quarantined = found\)"),
        (spoil_excluded, r"\(kept \+ excluded = read\)"),
        (spoil_stored, r"\(frames of kept series = frames stored\)"),
        (spoil_split, r"\(every patient in one split\)"),
    ],
)
def test_balance_names_the_sum_that_does_not_hold(tmp_path, workspace, spoil, sum_):
    write_archive(tmp_path / "archive", 0)
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    assert cohort.balance(found)["holds"].all()
    spoil(found)
    with pytest.raises(StudyError, match=sum_):
        cohort.balance(found)


def test_frames_of_a_series_are_where_the_table_says(tmp_path, workspace):
    write_archive(tmp_path / "archive", 2)
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    frames = np.load(workspace.path("frames.npy"))
    files = found.key.set_index("series")["file"]
    for row in found.series[found.series["kept"]].itertuples():
        path = tmp_path / "archive" / files[row.series]
        direct = dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), 16, 162, 0.008).frames
        assert np.array_equal(frames[row.first_frame : row.first_frame + row.frames], direct)


def test_no_identifier_leaves_the_private_folder(tmp_path, workspace):
    archive = tmp_path / "archive"
    write_archive(archive, 3)
    uid = generate_uid(entropy_srcs=["findme"])
    for name in (
        "PatientName",
        "PatientAddress",
        "InstitutionName",
        "OperatorsName",
        "AccessionNumber",
        "ProtocolName",
    ):
        path = archive / "Geheim^Gerda" / f"{name}.dcm"
        path.parent.mkdir(exist_ok=True)
        given = {name: "Geheim", "SeriesDescription": "ICA Geheim", "PatientID": "Geheim7"}
        make_xa(path, np.full((2, 16, 16), 2000, np.uint16), SeriesInstanceUID=uid, **given)
    (archive / "Geheim^Gerda" / "Geheim.txt").write_text("Geheim")
    cohort.curate(archive, workspace, SETTINGS, seed=1)

    def decoded(folder: Path) -> str:
        texts = []
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            texts.append(str(path.relative_to(workspace.root)))
            texts.append(path.read_bytes().decode("latin-1"))
            if path.suffix == ".parquet":
                texts.append(pd.read_parquet(path).to_csv())
        return "\n".join(texts)

    secrets = ("geheim", "muster", "mrn", uid, "4711", str(tmp_path).lower())
    private = decoded(workspace.root / "private").lower()
    assert all(word in private for word in ("geheim", uid)), "the search must find what is there"
    shutil.rmtree(workspace.root / "private")
    shared = decoded(workspace.root).lower()
    assert "quarantine.csv" in shared
    assert [word for word in secrets if word in shared] == []


def test_pseudonyms_are_hmac_sha256(workspace):
    key = bytes(range(32))
    digest = hmac.digest(key, b"P:4711", hashlib.sha256).hex()
    assert cohort.pseudonym(key, "P", "4711") == "P" + digest[:8]
    assert cohort.run_key(workspace, None) == cohort.run_key(workspace, None)
    assert workspace.private("key.hex").stat().st_mode & 0o077 == 0


def test_keys_are_random_for_patients_and_fixed_for_phantoms(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    assert cohort.run_key(Workspace("a"), None) != cohort.run_key(Workspace("b"), None)
    assert cohort.run_key(Workspace("c"), 5) == cohort.run_key(Workspace("d"), 5)


def test_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, workspace, monkeypatch):
    write_archive(tmp_path / "archive", 4)
    cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    whole = outputs(workspace)
    records = sorted(workspace.path("private/curation").glob("*.json"))
    for record in records[::2]:
        record.unlink()
    for array in sorted(workspace.checkpoints("curation").glob("*.npy"))[:2]:
        array.unlink()
    for name in whole:
        workspace.path(name).unlink()
    cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    assert outputs(workspace) == whole

    read = []
    pool = bounded_pool.run
    monkeypatch.setattr(
        bounded_pool, "run", lambda work, tasks, *more: read.append(len(tasks)) or pool(work, tasks, *more)
    )
    cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    assert outputs(workspace) == whole
    cohort.curate(tmp_path / "archive", workspace, Curation(image_size=8, workers=1), seed=1)
    assert read == [0, 24], "nothing is read twice, and everything when a setting has changed"


def test_two_processes_give_the_same_as_one(tmp_path, workspace, monkeypatch):
    write_archive(tmp_path / "archive", 5)
    cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1, simulated=True)
    monkeypatch.setattr(cohort, "BYTES_PER_WORKER", 1)
    other = Workspace("other")
    cohort.curate(tmp_path / "archive", other, SETTINGS, seed=1, workers=2, simulated=True)
    assert outputs(other) == outputs(workspace)


def test_archives_without_anything_usable_say_so(tmp_path, workspace):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="holds no files: give the folder"):
        cohort.curate(tmp_path / "empty", workspace, SETTINGS, seed=1)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes").write_text("nothing here")
    with pytest.raises(StudyError, match="1 files were quarantined and 0 series excluded"):
        cohort.curate(tmp_path / "text", workspace, SETTINGS, seed=1)
    assert pd.read_csv(workspace.path("quarantine.csv"))["reason"].tolist() == ["not a DICOM file"]


def test_one_series_is_all_test(tmp_path, workspace):
    (tmp_path / "archive").mkdir()
    make_xa(tmp_path / "archive" / "one", np.full((2, 16, 16), 2000, np.uint16))
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    assert found.series["split"].tolist() == ["test"]
    assert "1 patient cannot be split" in found.flow["split_note"]
    assert "two patients" in cohort.cannot_train(pd.read_parquet(workspace.path("frames.parquet")), 8)
    assert cohort.describe(found.series)["mean age (years)"] == 56


def counts(rows: dict[str, list[int]], columns=("AC A", "PC A")) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))


def test_split_puts_every_cell_into_training_and_test():
    # Posterior plane A occurs in P2 and P5 alone: one of them must train, the other test.
    cells = counts({"P1": [4, 0], "P2": [4, 2], "P3": [4, 0], "P4": [4, 0], "P5": [4, 2], "P6": [4, 0]})
    settings = Curation(train_fraction=0.6, val_fraction=0.2)
    chosen, note = cohort.split_patients(cells, settings, seed=1)
    assert {chosen["P2"], chosen["P5"]} == {"train", "test"}
    assert sorted(chosen.values()).count("val") == 1
    assert note.endswith("absent: PC A from val")
    assert cohort.split_patients(cells.iloc[::-1], settings, seed=1)[0] == chosen


def test_split_is_as_good_as_the_best_of_all():
    rng = np.random.default_rng(0)
    cells = counts({f"P{i}": rng.integers(0, 6, 2).tolist() for i in range(7)})
    settings = Curation(train_fraction=0.6, val_fraction=0.2)
    chosen, _ = cohort.split_patients(cells, settings, seed=3)
    sizes = {name: list(chosen.values()).count(name) for name in cohort.SPLITS}

    def score(split: dict[str, str]) -> tuple:
        held = cells.groupby(pd.Series(split)).sum().reindex(cohort.SPLITS)
        wanted = pd.Series({"train": 0.6, "val": 0.2, "test": 0.2})
        deviation = (held / cells.sum()).sub(wanted, axis=0).abs().sum().sum()
        return ((held.loc[["train", "test"]] == 0).sum().sum(), (held.loc["val"] == 0).sum(), round(deviation, 9))

    names = [name for name, size in sizes.items() for _ in range(size)]
    best = min(score(dict(zip(cells.index, order, strict=True))) for order in set(itertools.permutations(names)))
    assert score(chosen) == best


@pytest.mark.parametrize("patients", range(3, 12))
def test_validation_and_test_are_never_empty(patients):
    cells = counts({f"P{i:02d}": [1, 1] for i in range(patients)})
    chosen, _ = cohort.split_patients(cells, Curation(), seed=1)
    assert set(chosen.values()) == set(cohort.SPLITS)
    assert len(chosen) == patients


def test_table1_of_the_published_counts_is_the_published_table():
    angles = {"A": (0.0, 0.0), "B": (-90.0, 0.0)}
    printed = published.published(1).pivot(index="row", columns="column", values="published")["Count"]
    rows = []
    for cell in ("AC A", "PC A", "AC B", "PC B"):
        circulation = "anterior" if cell.startswith("AC") else "posterior"
        # Half of the frames at the edges of the ±5° bins.
        for offset, number in ((5.0, printed[cell] // 2), (-5.0, printed[cell] - printed[cell] // 2)):
            primary, secondary = angles[cell[-1]]
            rows += [(circulation, cell[-1], primary + offset, secondary - offset)] * int(number)
    # The rest: outside a bin, or in the other plane's bin.
    rows += [("anterior", "A", 5.1, 0.0)] * 20_000 + [("anterior", "B", 0.0, 0.0)] * 20_000
    rows += [("posterior", "A", 30.0, 10.0)] * (int(printed["Others"]) - 40_000)
    arterial = pd.DataFrame(rows, columns=["circulation", "plane", "primary_angle_deg", "secondary_angle_deg"])
    table = published.contract(1, cohort.table1(arterial), "phantom")
    assert table["this_run"].tolist() == table["published"].tolist()
    assert len(table) == 12


def test_proportions_of_an_archive_without_some_cells():
    arterial = pd.DataFrame(
        {"circulation": ["anterior"] * 3, "plane": "B", "primary_angle_deg": -90.0, "secondary_angle_deg": 0.0}
    )
    table = cohort.table1(arterial)
    assert table["AC B", "Proportion (%)"] == table["Total", "Proportion (%)"] == 100.0
    assert table["Others", "Proportion (%)"] == table["PC A", "Count"] == 0


def test_cohort_facts_by_hand():
    series = pd.DataFrame(
        {
            "kept": [True, True, True, True, False],
            "patient": ["P1", "P1", "P2", "P3", "P4"],
            "study": ["E1", "E2", "E3", "E4", "E5"],
            "sex": ["F", "F", "M", "M", "F"],
            "age": pd.array([50, 52, 60, 70, 10], dtype="Int64"),
        }
    )
    facts = cohort.describe(series)
    assert (facts["patients"], facts["female"], facts["studies"]) == (3, 1, 4)
    assert (facts["female (%)"], facts["studies per patient"]) == (33.33, 1.33)
    assert (facts["mean age (years)"], facts["SD of age (years)"]) == (60.0, 10.0)
    assert np.isnan(facts["p"]), "one woman with an age is too few for a test"


def patients(sex: list[str], age: list[int]) -> pd.DataFrame:
    names = [f"P{i:02d}" for i in range(len(sex))]
    ages = pd.array([None if a < 0 else a for a in age], dtype="Int64")
    return pd.DataFrame({"kept": True, "patient": names, "study": names, "sex": sex, "age": ages})


def test_t_test_of_men_against_women_by_hand():
    # Welch: means 60 and 50, variances 100 and 50, so t = 10 / sqrt(100/3 + 50/2).
    facts = cohort.describe(patients(list("MMMFF"), [50, 60, 70, 45, 55]))
    assert facts["t, age of men against women"] == round(10 / (100 / 3 + 50 / 2) ** 0.5, 2) == 1.31
    freedom = (100 / 3 + 50 / 2) ** 2 / ((100 / 3) ** 2 / 2 + (50 / 2) ** 2 / 1)
    assert facts["p"] == float(f"{2 * stats.t.sf(10 / (100 / 3 + 50 / 2) ** 0.5, freedom):.2g}")


def test_who_states_no_sex_or_age_is_left_out_of_shares_and_test():
    stated = patients(list("MMMFF"), [50, 60, 70, 45, 55])
    more = patients(["", "M", "F"], [90, -1, -1]).assign(patient=["Q1", "Q2", "Q3"])
    facts = cohort.describe(pd.concat([stated, more], ignore_index=True))
    assert (facts["patients"], facts["female"], facts["female (%)"]) == (8, 3, 42.86)  # 3 of 7
    alone = cohort.describe(stated)
    assert [facts[name] for name in ("t, age of men against women", "p")] == [
        alone["t, age of men against women"],
        alone["p"],
    ]
    # A study that does not say the sex does not hide what another one says.
    twice = pd.concat([stated, stated.assign(sex="", age=stated["age"] - 1)], ignore_index=True)
    assert cohort.describe(twice)["female"] == 2


def test_a_damaged_key_is_named(workspace):
    workspace.private("key.hex").write_text("not hexadecimal")
    with pytest.raises(StudyError, match=r"private/key\.hex is not a hexadecimal key"):
        archive_files.run_key(workspace, None)


def test_frames_of_the_size_of_the_file_are_the_study_s_but_larger(tmp_path, workspace):
    y, x = np.mgrid[:48, :48]
    vessel = np.abs(x - y) < 6
    frames = np.stack([2000 - 900 * vessel * filled for filled in (0, 0.3, 1)]).astype(np.uint16)
    path = tmp_path / "archive" / "one.dcm"
    path.parent.mkdir()
    make_xa(path, frames, SeriesDescription="ACI li", SOPInstanceUID="1.2.3", PatientID="M")
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    series = found.series["series"].iloc[0]
    write_json(workspace.private("parameters/01_curation.json"), {"archive": str(tmp_path / "archive")})
    write_json(workspace.path("provenance/01_curation.json"), {"parameters": {"profile": "smoke"}})
    large = cohort.stored_frames(workspace, series, [2, 0])
    assert large.shape == (2, 48, 48)
    small = np.load(workspace.root / "frames.npy")[[2, 0]]
    assert np.abs(large.reshape(2, 16, 3, 16, 3).mean((2, 4)) - small).mean() < 6  # the same picture, reduced
    assert large[0][vessel].mean() < large[0][~vessel].mean() - 50
    with pytest.raises(StudyError, match="other frames than when it was curated"):
        cohort.stored_frames(workspace, series, [2, 7])
    path.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        cohort.stored_frames(workspace, series, [2])

"""The filter flow on random archives: every planted file must end in the class that was planted, and every sum must hold. Copies of an instance."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, RLELossless, generate_uid
from xa_maker import avg_sub, make_xa, mask_module

from dsa_lib.curation import cohort, filter_flow
from dsa_lib.curation.circulation import Match, read_vocabulary
from dsa_lib.dicom.series import read_acquisition
from dsa_lib.figures import flow as figures
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace

SETTINGS = Curation(image_size=16, workers=1)
KEPT, BROKEN = "kept", "quarantined for any reason"
IDENTICAL, CONFLICTING = filter_flow.IDENTICAL, filter_flow.CONFLICTING
# What can be planted → where it must end. Elements as make_xa takes them.
PLANTED = {
    "carotid": ({"SeriesDescription": "ACI li"}, KEPT),
    "vertebral": ({"SeriesDescription": "RVA", "ImageType": ["ORIGINAL", "PRIMARY", "BIPLANE B"]}, KEPT),
    "oblique": ({"PositionerPrimaryAngle": "-30.5", "PositionerSecondaryAngle": "12"}, KEPT),
    "external": ({"SeriesDescription": "ACE re"}, "other territory: external carotid artery"),
    "arch": ({"SeriesDescription": "Bogen"}, "other territory: aortic arch"),
    "spine": ({"SeriesDescription": "Spinal Th9"}, "other territory: spinal arteries"),
    "groin": ({"SeriesDescription": "Leiste"}, "other territory: femoral artery"),
    "unnamed": ({"SeriesDescription": "Kontrolle"}, "no vessel named: annotate by hand"),
    "contradiction": (
        {"SeriesDescription": "ICA", "ProtocolName": "AV li"},
        "contradictory vessels named: annotate by hand",
    ),
    "rotation": ({"PositionerMotion": "DYNAMIC"}, "rotational run: the view changes"),
    "no angles": ({"PositionerSecondaryAngle": None}, "no C-arm angles in the header"),
    "no patient": ({"PatientID": None}, "PatientID is missing"),
    "computed tomography": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "not an X-ray angiography image"),
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return Workspace("test")


class Planter:
    """Writes a random archive and remembers where every file must end."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng, self.count = folder, np.random.default_rng(seed), itertools.count()
        self.expected: dict[str, str] = {}

    def path(self) -> Path:
        """A new place: random depth, with or without a suffix, in an order that says nothing."""
        folders = [f"{self.rng.integers(3)}" for _ in range(self.rng.integers(4))]
        suffix = str(self.rng.choice(["", ".dcm", ".IMA"]))
        path = self.folder.joinpath(*folders, f"{self.rng.integers(1000):03d}_{next(self.count)}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, path: Path, outcome: str) -> None:
        self.expected[path.relative_to(self.folder).as_posix()] = outcome

    def elements(self, kind: str) -> dict:
        number = next(self.count)
        common = {
            "PatientID": f"MRN{self.rng.integers(6)}",
            "StudyInstanceUID": generate_uid(entropy_srcs=[str(self.rng.integers(9))]),
            "SOPInstanceUID": generate_uid(entropy_srcs=[str(self.folder), str(number)]),
            "SeriesInstanceUID": generate_uid(entropy_srcs=["series", str(number)]),
        }
        return common | PLANTED[kind][0]

    def frames(self) -> np.ndarray:
        return self.rng.integers(1500, 2500, (int(self.rng.integers(2, 6)), 16, 16), dtype=np.uint16)

    def plant(self, kind: str) -> None:
        path = self.path()
        make_xa(path, self.frames(), **self.elements(kind))
        self.note(path, PLANTED[kind][1])

    def copies(self, kind: str, number: int) -> None:
        """`number` files of one image: byte for byte, compressed without loss, or with private elements."""
        elements, frames, paths = self.elements(kind), self.frames(), [self.path() for _ in range(number)]
        for path in paths:
            how = self.rng.integers(3)
            dataset = make_xa(path, frames, compress=RLELossless if how == 1 else None, **elements)
            if how == 2:
                dataset.private_block(0x0011, "ARCHIVE", create=True).add_new(1, "LO", f"exported {path.name}")
                dataset.save_as(path)
            self.note(path, IDENTICAL)
        self.note(min(paths), PLANTED[kind][1])

    def conflict(self, kind: str) -> None:
        """One UID, two images: other pixels, another patient or another vessel; now and then with a true copy of one of them."""
        elements, frames, paths = self.elements(kind), self.frames(), [self.path(), self.path()]
        make_xa(paths[0], frames, **elements)
        how = self.rng.integers(3)
        other = {1: {"PatientID": "another"}, 2: {"SeriesDescription": "VA" if kind == "carotid" else "ICA"}}.get(how)
        make_xa(paths[1], frames if other else frames + 1, **(elements | (other or {})))
        if self.rng.random() < 0.5:
            paths.append(self.path())
            shutil.copy(paths[0], paths[2])
        for path in paths:
            self.note(path, CONFLICTING)

    def foreign(self) -> None:
        path = self.path()
        path.write_text("Befund: unauffaellig")
        self.note(path, "not a DICOM file")

    def empty(self) -> None:
        path = self.path()
        path.touch()
        self.note(path, BROKEN)

    def truncated(self) -> None:
        path = self.path()
        make_xa(path, self.frames(), **self.elements("carotid"))
        path.write_bytes(path.read_bytes()[: -int(self.rng.integers(1, 900))])
        self.note(path, BROKEN)

    def index(self) -> None:
        path = self.path().with_name("DICOMDIR")
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.FileSetID, dataset.DirectoryRecordSequence = "DISC", []
        dataset.save_as(path, enforce_file_format=True)
        self.note(path, "a DICOMDIR index, which holds no image")


def random_archive(folder: Path, seed: int) -> dict[str, str]:
    """{path in the archive: where it must end}: everything that can be planted at least once, more at random, in random order."""
    planter = Planter(folder, seed)
    acts = [lambda kind=kind: planter.plant(kind) for kind in (*PLANTED, *planter.rng.choice(list(PLANTED), 6))]
    acts += [lambda kind=kind: planter.plant(kind) for kind in planter.rng.choice(["carotid", "vertebral"], 5)]
    acts += [
        lambda: planter.copies("carotid", 3),
        lambda: planter.copies("external", 2),
        lambda: planter.conflict("carotid"),
        lambda: planter.conflict("groin"),
        *[planter.foreign, planter.empty, planter.truncated, planter.index],
    ]
    for index in planter.rng.permutation(len(acts)):
        acts[index]()
    return planter.expected


@pytest.mark.parametrize("seed", range(8))
def test_every_planted_file_ends_where_it_must(tmp_path, workspace, seed):
    expected = random_archive(tmp_path / "archive", seed)
    found = cohort.curate(tmp_path / "archive", workspace, SETTINGS, seed=1)
    series, kept, flow = found.series, found.series[found.series["kept"]], found.flow

    reasons = series.set_index("series")["reason"].replace("", KEPT)
    listed = pd.read_csv(workspace.private("quarantine_files.csv")).set_index("path")["reason"]
    ended = {row.file: reasons[row.series] for row in found.key.itertuples()} | listed.to_dict()
    for path, outcome in expected.items():
        if outcome == BROKEN and path in listed:
            ended[path] = BROKEN
    assert ended == expected

    outcomes = list(expected.values())
    assert flow["files found"] == len(expected) == len(series) + len(found.quarantine)
    assert flow["series read"] == len(series) == flow["series kept"] + sum(flow["excluded"].values())
    assert flow["series kept"] == outcomes.count(KEPT) == len(kept)
    assert all(flow["excluded"][reason] == outcomes.count(reason) for reason in flow["excluded"])
    assert sum(flow["quarantined"].values()) == len(found.quarantine)
    assert cohort.balance(found)["holds"].all()

    stored, frames = np.load(workspace.path("frames.npy")), pd.read_parquet(workspace.path("frames.parquet"))
    assert len(stored) == len(frames) == kept["frames"].sum() == flow["frames"]
    assert frames["series"].value_counts().to_dict() == kept.set_index("series")["frames"].to_dict()
    assert (frames.groupby("patient")["split"].nunique() == 1).all()
    assert (series.loc[~series["kept"], "split"] == "").all()

    shared = pd.read_csv(workspace.path("quarantine.csv"), keep_default_na=False)
    assert list(shared.columns) == ["file", "reason", "remedy"]
    assert (shared != "").all(axis=None)
    assert shared["file"].is_unique


def archive_of(folder: Path, **files: dict) -> Path:
    folder.mkdir()
    for name, (frames, elements) in files.items():
        make_xa(folder / name, frames, **({"SOPInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2"} | elements))
    return folder


PLAIN = np.random.default_rng(0).integers(1500, 2500, (2, 16, 16), dtype=np.uint16)
OTHER = PLAIN, {"SOPInstanceUID": "1.2.4", "SeriesInstanceUID": "1.3"}


def test_of_three_copies_the_first_is_read(tmp_path, workspace):
    archive = archive_of(
        tmp_path / "archive",
        a=(PLAIN, {}),
        b=(PLAIN, {}),
        c=(PLAIN, {"compress": RLELossless, "InstitutionName": "elsewhere"}),
    )
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert found.key["file"].tolist() == ["a"]
    assert found.flow["quarantined"] == {IDENTICAL: 2}
    read = cohort.pseudonym(cohort.run_key(workspace, None), "F", "a")
    assert set(found.quarantine["remedy"]) == {f"nothing to do: {read} is read"}


@pytest.mark.parametrize(
    ("frames", "elements"),
    [
        (PLAIN + 1, {}),
        (PLAIN[:, :, :8], {}),
        (PLAIN, {"PatientID": "another"}),
        (PLAIN, {"SeriesDescription": "ECA"}),
        (PLAIN, {"FrameTime": "250"}),
        # Equal stored values that stand for another image.
        (PLAIN, {"MaskSubtractionSequence": mask_module(avg_sub(2))}),
        (PLAIN, {"MaskSubtractionSequence": None, "PixelIntensityRelationship": "DISP", "ImageType": ["DERIVED", "PRIMARY", "BIPLANE A"]}),
    ],
)  # fmt: skip
def test_of_two_images_with_one_uid_neither_is_trusted(tmp_path, workspace, frames, elements):
    archive = archive_of(tmp_path / "archive", a=(PLAIN, {}), b=(frames, elements), c=(PLAIN, {}), other=OTHER)
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert found.key["file"].tolist() == ["other"]
    assert found.flow["quarantined"] == {CONFLICTING: 3}
    # Each names the others, by the names that the list has.
    listed = found.quarantine.set_index("file")["remedy"]
    for file, remedy in listed.items():
        assert set(re.findall(r"F[0-9a-f]{10}", remedy)) == set(listed.index) - {file}


def test_a_damaged_copy_is_no_rival(tmp_path, workspace):
    archive = archive_of(tmp_path / "archive", a=(PLAIN, {}), b=(PLAIN, {}))
    (archive / "a").write_bytes((archive / "a").read_bytes()[:-500])
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert found.key["file"].tolist() == ["b"]
    assert CONFLICTING not in found.flow["quarantined"]


def test_copies_are_judged_alike_after_a_restart(tmp_path, workspace):
    """One record fresh, one read back as JSON, where tuples have become lists."""
    archive = archive_of(tmp_path / "archive", a=(PLAIN, {}), b=(PLAIN, {}))
    cohort.curate(archive, workspace, SETTINGS, seed=1)
    next(iter(sorted(workspace.path("private/curation").glob("*.json")))).unlink()
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    assert found.flow["quarantined"] == {IDENTICAL: 1}


def test_pixels_that_cannot_be_decoded_are_not_called_equal(tmp_path):
    make_xa(tmp_path / "a", PLAIN)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-600])
    assert filter_flow.same_pixels(tmp_path / "a", tmp_path / "a")
    assert not filter_flow.same_pixels(tmp_path / "a", tmp_path / "b")


def test_an_answer_by_hand_comes_before_the_vocabulary_and_not_before_an_obstacle(tmp_path):
    make_xa(tmp_path / "a", PLAIN, SeriesDescription="Kontrolle")
    make_xa(tmp_path / "b", PLAIN, SeriesDescription="Kontrolle", PositionerMotion="DYNAMIC")
    vocabulary = read_vocabulary()
    answers = {
        "posterior": Match("posterior", "by hand", ""),
        "exclude": Match(None, "by hand", "other territory: by hand"),
    }
    still, turning = (read_acquisition(tmp_path / name) for name in "ab")
    plain = filter_flow.judge(still, vocabulary)
    assert (plain["kept"], plain["for_expert"], plain["by_hand"]) == (False, True, "")
    told = filter_flow.judge(still, vocabulary, answer=answers["posterior"])
    assert (told["kept"], told["circulation"], told["matched_term"], told["by_hand"]) == (
        True,
        "posterior",
        "by hand",
        "posterior",
    )
    out = filter_flow.judge(still, vocabulary, answer=answers["exclude"])
    assert (out["kept"], out["reason"], out["by_hand"]) == (False, "other territory: by hand", "exclude")
    rotated = filter_flow.judge(turning, vocabulary, answer=answers["posterior"])
    assert (rotated["kept"], rotated["for_expert"]) == (False, False)


def test_answers_written_into_the_list_are_used_and_never_lost(tmp_path, workspace):
    archive = archive_of(
        tmp_path / "archive",
        a=(PLAIN, {"SeriesDescription": "Kontrolle", "SOPInstanceUID": "1.2.1"}),
        b=(PLAIN, {"SeriesDescription": "ICA/VA", "SOPInstanceUID": "1.2.2", "ProtocolName": "Lauf 2"}),
        c=(PLAIN, {"SeriesDescription": "Bogen", "SOPInstanceUID": "1.2.3"}),
        d=(PLAIN, {"SOPInstanceUID": "1.2.4"}),
    )
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    listed = workspace.private("circulation_by_hand.csv")
    asked = pd.read_csv(listed, dtype=str, keep_default_na=False)
    assert set(asked["file"]) == {"a", "b"}
    assert set(asked["description"]) == {"Kontrolle", "ICA/VA"}
    assert set(asked["circulation"]) == {""}
    assert found.flow["series kept"] == 1

    asked["circulation"] = asked["file"].map({"a": "posterior", "b": ""})
    asked.to_csv(listed, index=False)
    records = {path: path.stat().st_mtime_ns for path in workspace.private("curation").glob("*.json")}
    found = cohort.curate(archive, workspace, SETTINGS, seed=1, by_hand=listed)
    anew = [
        json.loads(path.read_text())["sop_uid"] for path, before in records.items() if path.stat().st_mtime_ns != before
    ]
    assert len(records) == 4 and anew == ["1.2.1"], "only what the answer is about is read again"
    assert found.flow["posterior"]["series"] == found.flow["anterior"]["series"] == 1
    assert cohort.balance(found)["holds"].all()
    cohort.curate(archive, workspace, SETTINGS, seed=1)  # the parameter forgotten
    kept = pd.read_csv(listed, dtype=str, keep_default_na=False).set_index("file")["circulation"]
    assert kept.to_dict() == {"a": "posterior", "b": ""}


def test_frames_that_the_mask_module_leaves_out_keep_the_numbers_of_the_others(tmp_path, workspace):
    frames = np.concatenate([PLAIN, PLAIN, PLAIN[:1]])  # 0 to 4
    applies = avg_sub(1, ApplicableFrameRange=[3, 4])
    archive = archive_of(
        tmp_path / "archive", a=(frames, {"MaskSubtractionSequence": mask_module(applies), "FrameTime": "500"})
    )
    found = cohort.curate(archive, workspace, SETTINGS, seed=1)
    table = pd.read_parquet(workspace.path("frames.parquet"))
    assert table["frame"].tolist() == [2, 3]
    assert table["time_s"].tolist() == [1.0, 1.5]
    row = found.series.iloc[0]
    assert (row["frames"], row["frames_in_file"], found.flow["frames"]) == (2, 5, 2)
    assert len(np.load(workspace.path("frames.npy"))) == 2
    assert cohort.balance(found)["holds"].all()


def test_figure_1_counts_arterial_frames_once_there_are_any():
    arterial = pd.DataFrame(
        {
            "series": ["s1"] * 3 + ["s2"] * 2 + ["s3"],
            "patient": ["p1"] * 3 + ["p1"] * 2 + ["p2"],
            "circulation": ["anterior"] * 3 + ["posterior"] * 3,
            "split": ["train"] * 5 + ["test"],
        }
    )
    further = filter_flow.count_arterial(arterial, annotated=1)
    assert further == {
        "annotated": 1,
        "anterior": 3,
        "posterior": 3,
        "split": {
            "train": {"patients": 1, "series": 2, "frames": 5},
            "val": {"patients": 0, "series": 0, "frames": 0},
            "test": {"patients": 1, "series": 1, "frames": 1},
        },
    }
    series = pd.DataFrame(
        {"kept": [True] * 3 + [False], "reason": [""] * 3 + ["no vessel"], "frames": [9, 8, 7, 6], "patient": ["p1", "p1", "p2", "p3"], "study": list("abcd"),
         "circulation": ["anterior", "posterior", "posterior", None]}
    )  # fmt: skip
    counted = filter_flow.count(6, series, pd.DataFrame({"reason": ["damaged", "damaged"]}))
    assert (counted["excluded"], counted["quarantined"], counted["frames"]) == ({"no vessel": 1}, {"damaged": 2}, 24)
    texts = [text.get_text() for text in figures.draw_flow(counted, "a test", further).axes[0].texts]
    wanted = ["6 files found", "2 quarantined", "1 excluded (25.0 %)", "2 patients · 3 studies · 24 frames"]
    wanted += ["1 series annotated", "2 further series classified", "6 arterial-phase frames"]
    wanted += ["3 arterial-phase frames (50.0 %)", "2 series · 5 arterial frames", "1 series · 1 arterial frames"]
    assert [line for line in wanted if line not in texts] == []

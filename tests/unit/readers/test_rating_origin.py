"""Simulated ratings stay simulated: through copies, spreadsheets and taken-out columns; contradictions and edits are refused."""

import json

import numpy as np
import pandas as pd
import pytest

from dsa_lib.readers import rating_origin
from dsa_lib.readers.rater_model import simulate
from dsa_lib.readers.rating_files import RECONSTRUCTED, collect, open_reader_study, write_study
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

IMAGES = pd.DataFrame({"image_id": [f"i{n}" for n in range(12)], "circulation": "anterior", "plane": "A"})


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def written(folder, origin, seed=1):
    """Files of the rater model under the flag of `origin`; a run keeps them in `readers/`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_study(*simulate(IMAGES, seed=seed), folder / "screening.csv", folder / "ratings.csv", origin)
    return folder


def given(folder, target):
    """As notebook 06 takes the files in `folder`: into a run, then opened there."""
    files = target / "screening.csv", target / "ratings.csv"
    collected = collect(folder / "screening.csv", folder / "ratings.csv", *files)
    opened = open_reader_study(*files)
    assert opened.origin == collected.origin
    return opened


def edit(path, change):
    frame = change(pd.read_csv(path, dtype=str, keep_default_na=False))
    frame.to_csv(path, index=False)


def strip(folder, *names):
    for name in names or ("screening", "ratings"):
        edit(folder / f"{name}.csv", lambda frame: frame.drop(columns="origin"))


@pytest.mark.parametrize("origin", ["readers", "simulated"])
def test_the_origin_travels_with_the_files_and_without_their_manifest(tmp_path, origin):
    folder = written(tmp_path / "in", origin)
    for name in ("screening", "ratings"):
        assert set(pd.read_csv(folder / f"{name}.csv")["origin"]) == {origin}
    assert given(folder, tmp_path / "out").origin == origin
    (folder / "ratings.origin.json").unlink()
    assert given(folder, tmp_path / "again").origin == origin


def test_files_of_other_programs_state_no_origin(tmp_path):
    folder = written(tmp_path / "in", "readers")
    (folder / "ratings.origin.json").unlink()
    strip(folder)
    assert given(folder, tmp_path / "out").origin == rating_origin.UNSTATED
    assert json.loads((tmp_path / "out" / "ratings.origin.json").read_text())["origin"] == ""
    assert rating_origin.SOURCES[""] == "reader ratings, origin not stated"


def test_a_screening_of_readers_does_not_vouch_for_the_ratings(tmp_path):
    folder = written(tmp_path / "in", "readers")
    (folder / "ratings.origin.json").unlink()
    strip(folder, "ratings")
    assert given(folder, tmp_path / "out").origin == rating_origin.UNSTATED
    folder = written(tmp_path / "sim", "simulated")
    (folder / "ratings.origin.json").unlink()
    strip(folder, "ratings")
    assert given(folder, tmp_path / "out").origin == "simulated"


def test_simulated_ratings_are_known_by_their_rows_when_column_and_manifest_are_gone(tmp_path, runs):
    written(runs / "one" / "readers", "simulated")
    (runs / "broken" / "readers").mkdir(parents=True)
    (runs / "broken" / "readers" / "ratings.origin.json").write_text("{")  # of another run: passed over
    folder = written(tmp_path / "in", "simulated")
    (folder / "ratings.origin.json").unlink()
    strip(folder)
    edit(folder / "ratings.csv", lambda frame: frame.sample(frac=1, random_state=0)[frame.columns[::-1]])
    text = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())  # as a spreadsheet saves it
    assert given(folder, tmp_path / "out").origin == "simulated"
    # The run's own file was replaced by the one given: it is known all the same.
    assert given(folder, runs / "one" / "readers").origin == "simulated"
    assert given(folder, runs / "one" / "readers").origin == "simulated"


def test_simulated_ratings_under_the_flag_of_readers_are_refused(tmp_path, runs):
    written(runs / "one" / "readers", "simulated")
    folder = written(tmp_path / "in", "readers")
    with pytest.raises(
        StudyError, match=r"but they are the simulated ones of the run 'one': give the files of readers"
    ):
        given(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["grade", "kept", "origin"])
def test_a_file_that_was_changed_after_its_manifest_is_refused(tmp_path, change):
    folder = written(tmp_path / "in", "readers")

    def grade(frame):
        first = frame.index[frame["rating"].ne("")][0]
        frame.loc[first, "rating"] = "1" if frame.loc[first, "rating"] != "1" else "2"
        return frame

    def kept(frame):  # one that was left out, so that no rating contradicts it
        frame.loc[frame.index[frame["kept"].eq("false")][0], "kept"] = "true"
        return frame

    file, edited = {
        "grade": ("ratings.csv", grade),
        "kept": ("screening.csv", kept),
        "origin": ("ratings.csv", lambda frame: frame.assign(origin="simulated")),
    }[change]
    if change == "origin":
        edit(folder / "screening.csv", lambda frame: frame.drop(columns="origin"))
    edit(folder / file, edited)
    with pytest.raises(
        StudyError,
        match=rf"{file} was changed after ratings.origin.json was written: give the file as it was written, or remove ratings",
    ):
        given(folder, tmp_path / "out")
    (folder / "ratings.origin.json").unlink()
    assert given(folder, tmp_path / "out").origin == ("simulated" if change == "origin" else "readers")


def test_two_origins_are_refused_in_one_file_and_between_the_two(tmp_path):
    folder = written(tmp_path / "in", "readers")
    (folder / "ratings.origin.json").unlink()
    edit(folder / "ratings.csv", lambda frame: frame.assign(origin=np.where(frame.index < 3, "simulated", "readers")))
    with pytest.raises(StudyError, match=r"ratings\.csv row 5: the origin is 'readers' here and 'simulated' before"):
        given(folder, tmp_path / "out")
    edit(folder / "ratings.csv", lambda frame: frame.assign(origin="simulated"))
    with pytest.raises(
        StudyError, match=r"'readers' in screening\.csv and 'simulated' in ratings\.csv: give two files of one"
    ):
        given(folder, tmp_path / "out")


@pytest.mark.parametrize("value", ["clinic B", ""])
def test_an_origin_outside_the_vocabulary_is_refused(tmp_path, value):
    folder = written(tmp_path / "in", "readers")
    edit(folder / "ratings.csv", lambda frame: frame.assign(origin=value))
    with pytest.raises(
        StudyError, match=r"ratings\.csv row 2: origin .*must be one of readers, simulated, reconstructed"
    ):
        given(folder, tmp_path / "out")


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path):
    folder = written(tmp_path / "in", "readers")
    for text in (
        "{",
        '{"origin": "readers"}',
        '{"origin": "me", "rows_sha256": {"screening": "", "ratings": ""}}',
        "[]",
    ):
        (folder / "ratings.origin.json").write_text(text)
        with pytest.raises(StudyError, match=r"ratings\.origin\.json is not a manifest of ratings: remove it"):
            given(folder, tmp_path / "out")


def test_reconstructed_ratings_are_refused_under_other_names_of_images_too(tmp_path):
    shipped = PROJECT / "data_manifests" / "reader_study"
    for name in ("screening.csv", "ratings.csv"):
        text = (shipped / name).read_text().replace(RECONSTRUCTED, "img")
        (tmp_path / name).write_text(text)
    with pytest.raises(StudyError, match=r"ratings\.csv holds reconstructed ratings.*notebook 31"):
        given(tmp_path, tmp_path / "out")
    strip(tmp_path)
    for name in ("screening.csv", "ratings.csv"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("img", RECONSTRUCTED))
    with pytest.raises(StudyError, match=r"holds reconstructed ratings"):
        given(tmp_path, tmp_path / "out")
    found = rating_origin.known(json.loads((shipped / "ratings.origin.json").read_text())["rows_sha256"]["ratings"])
    assert found == ("reconstructed", "data_manifests/reader_study")


def test_a_hash_depends_on_every_value_and_not_on_the_order():
    screening, ratings = simulate(IMAGES, seed=2)
    columns = ["image_id", "rater", "role", "segment", "rating", "flag"]
    digest = rating_origin.rows_sha256(ratings, columns)
    assert rating_origin.rows_sha256(ratings[::-1], columns) == digest
    for column in columns:
        other = ratings.copy()
        other.loc[5, column] = (
            2.0 if column == "rating" and other.loc[5, "rating"] != 2 else 3.0 if column == "rating" else "x"
        )
        assert rating_origin.rows_sha256(other, columns) != digest, column
    assert rating_origin.rows_sha256(screening.assign(kept=True), list(screening)) != rating_origin.rows_sha256(
        screening, list(screening)
    )

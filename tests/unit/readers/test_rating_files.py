"""Every fault of a reader study's files is one sentence with file, row and remedy; what is unusual becomes a note."""

import re

import pytest

from dsa_lib.readers.rating_files import FLAGS, RATINGS, ROLES, collect, expert_roles, open_reader_study
from dsa_lib.readers.rating_files import SCREENING as SCREENING_SCHEMA
from dsa_lib.readers.tables import SEGMENTS, experts
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

SCREENING = """image_id,circulation,plane,kept
007,anterior,A,true
x2,posterior,B,1
x3,posterior,A,FALSE
"""
HEADER = "image_id,rater,role,segment,rating,flag\n"


def rows(image="007", rater="NR1", role="NR", entries=("4,", "3.0,", ",not_present")):
    return "".join(
        f"{image},{rater},{role},{s},{e}\n" for s, e in zip(("proximal", "medium", "peripheral"), entries, strict=True)
    )


GOOD = HEADER + rows() + rows("x2") + rows(rater="NS1", role="NS") + rows("x2", rater="NS1", role="NS")


def open_texts(folder, ratings, screening=SCREENING):
    (folder / "screening.csv").write_bytes(screening.encode())
    (folder / "ratings.csv").write_bytes(ratings.encode())
    return open_reader_study(folder / "screening.csv", folder / "ratings.csv")


def test_good_files(tmp_path):
    study = open_texts(tmp_path, "\ufeff" + GOOD + ",,,,,\n")  # byte order mark and blank last row: spreadsheet exports
    assert study.cells == ["AC A", "PC A", "PC B"]
    assert study.kept["image_id"].tolist() == ["007", "x2"]
    assert study.ratings["rating"].tolist()[:2] == [4, 3]
    assert study.ratings.loc[4, "flag"] == "not_present"
    assert study.raters == ["NR1", "NS1"]


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (GOOD.replace("4,\n", "6,\n", 1), "ratings.csv row 2: rating '6' must be a whole number from 1 to 5"),
        (GOOD.replace("4,\n", "3.5,\n", 1), "row 2: rating '3.5' must be a whole number"),
        (
            GOOD.replace("4,\n", "0,\n"),
            "row 2: rating '0' must be a whole number from 1 to 5, or empty where a flag is set (and 3 more rows)",
        ),
        (
            GOOD + rows()[: len("007,NR1,NR,proximal,4,\n")],
            "row 14: NR1 rated the proximal segment of image 007 twice: keep one",
        ),
        (
            GOOD.replace("4,\n", "4,not_present\n", 1),
            "row 2: rating 4 stands together with the flag not_present: empty one",
        ),
        (GOOD.replace("4,\n", ",\n", 1), "row 2: neither a rating nor a flag is given: enter one, or delete the row"),
        (
            GOOD.replace("4,\n", ",external_circulation\n", 1),
            "row 2: NR1 marked only part of image 007 as external_circulation",
        ),
        (
            GOOD + rows("x2", "IM1", "IM", (",external_circulation",) * 3).rsplit("x2", 1)[0],
            "row 14: IM1 marked only part of image x2 as external_circulation",
        ),
        (GOOD.replace("medium", "distal", 1), "row 3: segment 'distal' must be one of proximal, medium, peripheral"),
        (
            GOOD.replace("NR,", "neuroradiologist,", 1),
            "row 2: role 'neuroradiologist' must be one of NR, NS, IM, other",
        ),
        (GOOD.replace("NR1,NR,medium", "NR1,NS,medium", 1), "row 3: NR1 has the role NS here and another one before"),
        (GOOD.replace("x2,NR1", "x2,nr1"), "row 5: nr1 is spelled otherwise before, in upper and lower case"),
        (GOOD.replace("4,\n", "nan,\n", 1), "row 2: rating 'nan' must be a whole number from 1 to 5"),
        (GOOD.replace("4,\n", "-1,\n", 1), "row 2: rating '-1' must be a whole number from 1 to 5"),
        (GOOD.replace(",not_present", ",absent", 1), "row 4: flag 'absent' must be empty or one of not_present"),
        (
            GOOD + rows("x9"),
            "row 14: image x9 is not in screening.csv: add it there or delete the row (and 2 more rows)",
        ),
        (GOOD + rows("x3"), "row 14: image x3 was not kept in screening.csv"),
        (GOOD.replace("007,NR1", "007,", 1), "row 2: rater is empty: fill it in"),
        (HEADER, "ratings.csv has no rows"),
        (GOOD.replace(",flag", ""), "ratings.csv lacks the column flag"),
        (GOOD.replace(",", ";"), "save it with commas, not semicolons"),
        ("", "ratings.csv is not a readable CSV file"),
    ],
)
def test_rating_faults(tmp_path, ratings, expected):
    with pytest.raises(StudyError) as fault:
        open_texts(tmp_path, ratings)
    assert expected in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("screening", "expected"),
    [
        (
            SCREENING + "x2,posterior,B,true\n",
            "screening.csv row 5: image x2 was screened twice: keep one row an image",
        ),
        (SCREENING.replace("true", "maybe"), "screening.csv row 2: kept 'maybe' must be true or false"),
        (SCREENING.replace("anterior", ""), "screening.csv row 2: circulation is empty: fill it in"),
        ("image_id,circulation,plane,kept\n", "screening.csv has no rows"),
    ],
)
def test_screening_faults(tmp_path, screening, expected):
    with pytest.raises(StudyError) as fault:
        open_texts(tmp_path, GOOD, screening)
    assert expected in str(fault.value)


def test_missing_file_and_binary_file(tmp_path):
    with pytest.raises(StudyError, match=r"screening\.csv does not exist: give the path of a CSV file"):
        open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv")
    (tmp_path / "screening.csv").write_text(SCREENING)
    (tmp_path / "ratings.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00\x80")
    with pytest.raises(StudyError, match=r"ratings\.csv is not a readable CSV file"):
        open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv")


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (HEADER + rows() + rows("x2"), "one rater only (NR1)"),
        (HEADER + rows() + rows(rater="NS1", role="NS"), "1 of 2 kept images have no rating or flag from anyone"),
        (GOOD + rows(rater="IM1", role="IM"), "IM1 left 1 of 2 rated images unfinished"),
        (GOOD.replace("NS1,NS,proximal,4", "NS1,NS,proximal,3"), "NS1 gave the rating 3 throughout"),
        (re.sub(r"(proximal|medium|peripheral),\d", r"\1,4", GOOD), "Every rating is 4"),
        (
            GOOD + "".join(rows(i, "IM1", "IM", (",not_present",) * 3) for i in ("007", "x2")),
            "IM1 gave flags only and no rating",
        ),
        (HEADER + rows() + rows(rater="IM1", role="IM"), "Fewer than two raters have an expert role"),
        (HEADER + rows() + rows("x2", entries=(",not_present",) * 3), "PC B has no scored image"),
    ],
)
def test_unusual_studies_are_analysed_and_noted(tmp_path, ratings, expected):
    assert any(expected in note for note in open_texts(tmp_path, ratings).notes)


def test_conditions_and_planes_in_another_case_are_the_same_conditions(tmp_path):
    study = open_texts(tmp_path, GOOD, SCREENING.replace("anterior", "Anterior").replace("posterior,B", "POSTERIOR,b"))
    assert study.cells == ["AC A", "PC A", "PC B"]


def test_a_segment_without_a_score_or_with_one_is_named(tmp_path):
    notes = open_texts(tmp_path, HEADER + rows() + rows("x2") + rows(rater="NS1", role="NS")).notes
    assert "AC A has no images with a score for peripheral: the mean and SD are NaN." in notes
    assert "AC A has 1 image with a score for proximal, medium, overall: the SD is NaN." in notes


def test_whose_ratings_are_the_experts_can_be_said(tmp_path):
    open_texts(tmp_path, GOOD + rows(rater="IM1", role="IM") + rows("x2", rater="IM1", role="IM"))
    study = open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv", expert_roles(" NS, IM,NS"))
    assert study.expert_roles == ("NS", "IM") and experts(study) == ["NS1", "IM1"]
    few = open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv", expert_roles("IM"))
    assert any("Fewer than two raters have an expert role (IM)" in note for note in few.notes)
    for text, wrong in (("NR,neurologist", "'neurologist'"), ("", "''"), (" , ", "''")):
        with pytest.raises(StudyError, match=rf"expert_roles names the role {wrong}: give one or more of NR, NS, IM"):
            expert_roles(text)


def test_nothing_kept_is_a_study_without_ratings(tmp_path):
    study = open_texts(tmp_path, HEADER, SCREENING.replace("true", "false").replace(",1\n", ",0\n"))
    assert study.notes == ["No image was kept in the screening: there is nothing to rate, and Tables 3 and 4 are NaN."]


def test_collect_copies_only_what_passed(tmp_path):
    (tmp_path / "in").mkdir()
    open_texts(tmp_path / "in", GOOD)
    out = tmp_path / "out"
    collect(tmp_path / "in/screening.csv", tmp_path / "in/ratings.csv", out / "screening.csv", out / "ratings.csv")
    assert (out / "ratings.csv").read_bytes() == (tmp_path / "in/ratings.csv").read_bytes()
    (tmp_path / "in/ratings.csv").write_text(GOOD.replace("4,\n", "9,\n"))
    with pytest.raises(StudyError):
        collect(tmp_path / "in/screening.csv", tmp_path / "in/ratings.csv", out / "s.csv", out / "r.csv")
    assert not (out / "s.csv").exists()
    with pytest.raises(StudyError, match="reader files come in pairs"):
        collect("", tmp_path / "in/ratings.csv", out / "s.csv", out / "r.csv")


def test_the_written_description_names_the_whole_schema_and_its_example_passes(tmp_path):
    text = (PROJECT / "data_manifests/schemas/reader_study.md").read_text()
    for name in (*SCREENING_SCHEMA.columns, *RATINGS.columns, *ROLES, *SEGMENTS, *FLAGS):
        assert f"`{name}`" in text
    example = text.split("```csv\n")[1].split("```")[0]
    study = open_texts(tmp_path, example, "image_id,circulation,plane,kept\nimg00001,anterior,A,true\n")
    assert len(study.ratings) == 3

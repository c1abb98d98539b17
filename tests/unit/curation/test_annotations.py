"""Annotations, window labels and phantom truth: hand-worked cases, and one sentence naming file and line for every fault."""

import pandas as pd
import pytest

from dsa_lib.curation import annotations
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Classifier

KEY = pd.DataFrame(
    {
        "series": ["s1", "s2", "s3", "s4"],
        "series_instance_uid": ["1.1", "1.2", "1.3", "1.3"],
        "sop_instance_uid": ["9.1", "9.2", "9.3", "9.4"],
        "file": ["a", "b", "c", "d"],
    }
)
WINDOWS = Classifier(positive_before_s=0.6, positive_after_s=0.3, negative_before_s=0.9, negative_after_s=0.6)
SERIES = pd.DataFrame(
    {"series": ["s1", "s2", "s3", "s4"], "frames_in_file": [10, 10, 5, 5], "kept": [True, False, True, True]}
)


def read(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return annotations.read_annotations(path, KEY, SERIES)


def test_annotations_become_pseudonyms_and_excluded_series_are_dropped(tmp_path):
    table = read(tmp_path, "series_instance_uid,frame\n1.1,4\n1.2,3\n")
    assert table.to_dict("records") == [{"series": "s1", "frame": 4}]


def test_instance_uid_tells_the_runs_of_one_series_apart(tmp_path):
    table = read(tmp_path, "series_instance_uid,frame,sop_instance_uid\n1.3,2,9.4\n1.3,1,9.3\n1.1,0,\n")
    assert table.to_dict("records") == [
        {"series": "s4", "frame": 2},
        {"series": "s3", "frame": 1},
        {"series": "s1", "frame": 0},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "series,frame\ns4,2\ns1,0\n",  # pseudonyms: no doubt about the run, though its UID holds two
        "series,frame\ns4,2\n1.1,0\n",
        "frame,note,series\n2,late,s4\n0,,s1\n",
        "\ufeffseries, frame\ns4 , 2\n\ns1,0\n,\n",  # as spreadsheets save it
        "series,frame\ns4,2.0\ns1,0.00\n",
    ],
)
def test_a_series_is_named_by_pseudonym_or_uid(tmp_path, text):
    assert read(tmp_path, text).to_dict("records") == [{"series": "s4", "frame": 2}, {"series": "s1", "frame": 0}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("instance,frame\n1.1,4\n", "no column series: its first line must be series,frame$"),
        ("series;frame\n1.1;4\n", "commas, not semicolons"),
        ("series,series_instance_uid,frame\ns1,1.1,4\n", "both series and series_instance_uid"),
        ("series,frame\n", "no rows"),
        ("series,frame\n\n,\n", "no rows"),
        ("", "cannot be read"),
        ("series,frame\n1.1,4\n7.7,2\n", r"mine\.csv, line 3: its series is not in this archive"),
        ("series,frame\n1.1,4\n\n7.7,2\n", r"mine\.csv, line 4: its series is not in this archive"),
        ("series,frame\n,4\n", r"line 2: its series is empty"),
        ("series,frame\n1.1,10\n", r"mine\.csv, line 2: frame 10 is out of range, .* frames 0 to 9"),
        ("series,frame\n1.1,-1\n", r"line 2: its frame is not a whole number"),
        ("series,frame\n1.1,2.5\n", r"line 2: its frame is not a whole number"),
        ("series,frame\n1.1,\n", r"line 2: its frame is not a whole number"),
        (
            "series,frame\n4,1.1\n",
            r"line 2: its frame is not a whole number",
        ),  # columns exchanged: the UID is not repeated
        ("series,frame\n1.1,4\n1.1,5\n", r"line 3: its series is annotated already in line 2"),
        ("series,frame\n1.1,4\ns1,5\n", r"line 3: its series is annotated already in line 2"),
        ("series_instance_uid,frame\n1.3,4\n", r"line 2: its series holds 2 runs; .* a column sop_instance_uid"),
        ("series_instance_uid,frame,sop_instance_uid\n1.3,4,9.9\n", r"line 2: its series has no such instance"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, sentence):
    with pytest.raises(StudyError, match=sentence) as fault:
        read(tmp_path, text)
    # The sentence stays in executed notebooks: no identifier of the archive, no folder of the user.
    assert not any(uid in str(fault.value) for uid in ("1.1", "1.3", "7.7", "9.9", str(tmp_path)))


def test_missing_file(tmp_path):
    with pytest.raises(StudyError, match=r"^none\.csv cannot be read as annotations"):
        annotations.read_annotations(tmp_path / "none.csv", KEY, SERIES)


def frames(series="s1", count=10, step=0.3, patient="p1"):
    return pd.DataFrame(
        {
            "frame_id": range(count),
            "series": series,
            "patient": patient,
            "frame": range(count),
            "time_s": [step * i for i in range(count)],
        }
    )


def test_windows_are_seconds_with_the_border_inside():
    table = annotations.window_labels(frames(), pd.DataFrame({"series": ["s1"], "frame": [4]}), WINDOWS)
    # −0.6 to +0.3 s is frames 2–5; −0.9 and +0.6 s are still unused (frames 1 and 6); beyond them: 0, 7, 8, 9
    assert dict(zip(table["frame"], table["label"], strict=True)) == {0: 0, 2: 1, 3: 1, 4: 1, 5: 1, 7: 0, 8: 0, 9: 0}
    assert table.set_index("frame")["offset_s"][2] == pytest.approx(-0.6)


def test_a_mark_on_a_frame_that_was_left_out_is_named():
    left_out = frames()[lambda table: table["frame"] != 4]
    with pytest.raises(
        StudyError, match="annotated frame of series s1 is one that its mask module leaves unsubtracted"
    ):
        annotations.window_labels(left_out, pd.DataFrame({"series": ["s1"], "frame": [4]}), WINDOWS)


def test_series_without_annotation_gets_no_label():
    both = pd.concat([frames(), frames("s3")])
    table = annotations.window_labels(both, pd.DataFrame({"series": ["s3"], "frame": [0]}), WINDOWS)
    assert set(table["series"]) == {"s3"}


def test_share_of_arterial_frames_behind_published_scores():
    # 100 positives and 300 negatives: 80 found, 20 missed, 20 called wrongly: P = R = 0.8, A = 0.9.
    low, central, high = annotations.implied_prevalence(0.8, 0.8, 0.9)
    assert central == pytest.approx(0.25)
    assert low < 0.25 < high
    # Brute force over all tables of 200 frames: which shares can print as the published scores?
    shares = [
        positives / 200
        for positives in range(1, 200)
        for hits in range(1, positives + 1)
        for false in range(200 - positives + 1)
        if round(hits / (hits + false), 2) == 0.92
        and round(hits / positives, 2) == 0.89
        and round((200 - false - positives + hits) / 200, 2) == 0.95
    ]
    low, central, high = annotations.implied_prevalence(0.92, 0.89, 0.95)
    assert low <= min(shares) <= max(shares) <= high
    assert round(central, 2) == 0.27


def test_too_few_patients_or_one_kind_of_frame():
    one = pd.DataFrame({"patient": ["p1", "p1"], "label": [0.0, 1.0]})
    with pytest.raises(StudyError, match=r"cover 1 patient\(s\)"):
        annotations.require_enough(one)
    with pytest.raises(StudyError, match="no non-arterial training frame"):
        annotations.require_enough(pd.DataFrame({"patient": ["p1", "p2"], "label": [1.0, 1.0]}))
    annotations.require_enough(pd.DataFrame({"patient": ["p1", "p2"], "label": [0.0, 1.0]}))


def test_truth_is_found_by_instance_and_frame():
    table = pd.concat([frames("s3", 2), frames("s4", 2)], ignore_index=True).sample(frac=1, random_state=0)
    truth = pd.DataFrame(
        {
            "sop_instance_uid": ["9.3", "9.3", "9.4", "9.4"],
            "frame": [0, 1, 0, 1],
            "phase": ["before_contrast", "arterial", "capillary", "venous"],
        }
    )
    phase = annotations.true_phase(table, KEY, truth)
    assert phase.sort_index().tolist() == ["before_contrast", "arterial", "capillary", "venous"]
    with pytest.raises(StudyError, match="lacks 1 of 4"):
        annotations.true_phase(table, KEY, truth[:3])

"""The rating page without a browser: what is asked and told, that an answer is on disk when it was acknowledged, and that the files fit notebooks 02 and 06."""

import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import made_up_run
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dsa_lib.curation import annotations
from dsa_lib.rating import store as stores
from dsa_lib.rating import study as studies
from dsa_lib.rating.__main__ import main
from dsa_lib.rating.answers import export
from dsa_lib.rating.page import VARIABLE, rating_page
from dsa_lib.rating.sitting import Sitting
from dsa_lib.rating.store import SEGMENTS, Store
from dsa_lib.rating.study import DEFAULT_RATERS, ROLES, Asked, begin, location, open_sitting, tokens_file
from dsa_lib.readers.rating_files import ROLES as CONTRACT_ROLES
from dsa_lib.readers.rating_files import open_reader_study
from dsa_lib.readers.tables import SEGMENTS as CONTRACT_SEGMENTS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT, Workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    runs = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSA_RUNS", str(runs))
        made_up_run.whole()
    return runs


@pytest.fixture
def ws(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return Workspace("tiny")


class Reader:
    """Somebody at a page: remembers what it shows, as the browser does."""

    def __init__(self, path, token):
        self.sitting = open_sitting(path)
        self.told = []
        self.tell(do="hello", token=token)

    def tell(self, **message):
        self.reply, self.pixels = self.sitting.handle({"key": getattr(self, "reply", {}).get("key"), **message})
        self.told.append(self.reply)
        return self.reply

    def answer(self, field, value, then="here", **more):
        return self.tell(do="answer", field=field, value=value, then=then, **more)

    def go(self, to):
        return self.tell(do="go", to=to)

    def grade(self, *values):
        for segment, value in zip(SEGMENTS, values, strict=True):
            self.answer(segment, value)
        return self.go("continue")


def start(**asked):
    path, people = begin(Asked("tiny", **asked))
    return path, {name: token for name, _, _, token in people}


def screened(path, tokens, reject=()):
    """The senior reader at the end of the screening, which is closed; images are told by the file, not by the page."""
    senior = Reader(path, tokens["NR1"])
    while senior.reply["show"] == "image":
        image = next(p.image for p in senior.sitting._places() if p.key == senior.reply["key"])
        senior.answer("kept", "false" if image in reject else "true", then="continue")
    senior.tell(do="close")
    return senior


def test_vocabulary_is_that_of_the_contract():
    assert SEGMENTS == tuple(CONTRACT_SEGMENTS) and ROLES == tuple(CONTRACT_ROLES)


# --- a study from its beginning to the files ------------------------------------------------------------------------------------------------------


def test_screening_then_rating_then_the_files_of_notebook_06(ws, tmp_path):
    path, tokens = start()
    waiting = Reader(path, tokens["NS1"])
    assert waiting.reply["stage"] == "waiting" and "key" not in waiting.reply and not waiting.pixels
    senior = screened(path, tokens, reject=(0, 5))
    assert senior.reply["stage"] == "rating" and senior.reply["of"] == 10
    assert senior.tell(do="hello", token=tokens["NR1"])["position"] == 1
    given = {
        "NR1": ("4", "3", "2"),
        "NR2": ("5", "not_present", "1"),
        "NS1": ("not_applicable", "3", "3"),
        "IM1": ("1", "1", "1"),
    }
    for name, values in given.items():
        reader = Reader(path, tokens[name])
        for _ in range(10):
            assert reader.reply["show"] == "image"
            reader.grade(*values)
        assert reader.reply["show"] == "end" and reader.reply["done"] == 10
    reader = Reader(path, tokens["IM1"])
    reader.tell(do="go", key=reader.reply["last"], to="here")
    reader.answer("external_circulation", "true")
    export(path, tmp_path / "out")
    study = open_reader_study(tmp_path / "out" / "screening.csv", tmp_path / "out" / "ratings.csv")
    assert study.origin == "readers"
    plan = pd.read_parquet(ws.root / "samples/reader/manifest.parquet").set_index("image_id")
    assert set(study.screening.loc[~study.screening["kept"], "image_id"]) == {plan.index[0], plan.index[5]}
    for column in ("circulation", "plane"):
        assert study.screening.set_index("image_id")[column].equals(
            plan[column].astype(str).rename_axis("image_id")[study.screening["image_id"]]
        )
    assert len(study.ratings) == 4 * 10 * 3
    nr2 = study.ratings[study.ratings["rater"] == "NR2"].groupby("segment")
    assert nr2["rating"].unique()["proximal"].tolist() == [5] and nr2["flag"].unique()["medium"].tolist() == [
        "not_present"
    ]
    marked = study.ratings[study.ratings["flag"] == "external_circulation"]
    assert (
        len(marked) == 3 and set(marked["rater"]) == {"IM1"} and marked["rating"].isna().all()
    )  # over the grades given before


def test_every_rater_has_an_order_of_its_own_which_the_seed_decides(ws):
    path, _ = start()
    other, _ = start(study="again")
    seeded, _ = start(study="seeded", seed=1)

    def orders(path):
        store = Store(path)
        return {
            (r.name, s): [p.image for p in store.places(r, s)]
            for r in store.raters()
            for s in ("screening", "annotation")
        } | {
            r.name: [
                row[0]
                for row in store.rows(
                    "SELECT image FROM places WHERE rater = ? AND stage = 'rating' ORDER BY place", r.number
                )
            ]
            for r in store.raters()
        }

    first = orders(path)
    assert first == orders(other) != orders(seeded)
    ratings = [tuple(first[name]) for name in ("NR1", "NR2", "NS1", "IM1")]
    assert len(set(ratings)) == 4 and all(sorted(order) == list(range(12)) for order in ratings)
    assert tuple(first["NR1", "screening"]) != ratings[0]
    assert [first[name, "screening"] for name in ("NR2", "NS1", "IM1")] == [[]] * 3
    keys = [row[0] for row in Store(path).rows("SELECT key FROM places")]
    assert len(set(keys)) == len(keys) == 12 * 5 and not set(keys) & {
        row[0] for row in Store(other).rows("SELECT key FROM places")
    }


def test_what_is_told_holds_no_condition_no_name_and_nobody_else(ws):
    path, tokens = start(controls=4, turing=True)
    screened(path, tokens, reject=(1,))
    reader = Reader(path, tokens["NR2"])
    shown = []
    while reader.reply["show"] == "image":
        shown.append(reader.pixels[0])
        reader.answer("origin", "generated")
        reader.grade("3", "4", "5")
    assert len(shown) == len(set(shown)) == 15
    told = json.dumps(reader.told)
    plan = pd.read_parquet(ws.root / "samples/reader/manifest.parquet")
    secret = {
        *plan["image_id"],
        *plan["file"],
        *plan["cell"],
        *plan["circulation"],
        *map(str, plan["seed"]),
        "control",
        "kind",
        "plane",
        "tiny",
    }
    secret |= {"NR1", "NS1", "IM1", *tokens.values()}
    assert not [word for word in secret if word in told]
    for png in shown:  # pixels and nothing else
        chunks = re.findall(rb"[a-zA-Z]{4}", png[8:16]) + [
            c for c in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf") if c in png
        ]
        assert chunks == [b"IHDR"]


def test_pixels_are_those_of_the_run(ws, tmp_path):
    path, tokens = start(controls=4)
    senior = Reader(path, tokens["NR1"])
    images = {}
    while senior.reply["show"] == "image":
        (tmp_path / "shown.png").write_bytes(senior.pixels[0])
        image = next(p.image for p in senior.sitting._places() if p.key == senior.reply["key"])
        images[image] = np.asarray(Image.open(tmp_path / "shown.png"))
        senior.answer("kept", "true", then="continue")
    plan = pd.read_parquet(ws.root / "samples/reader/manifest.parquet")
    for n, file in enumerate(plan["file"]):
        assert np.array_equal(images[n], np.asarray(Image.open(ws.root / "samples/reader" / file)))
    senior.tell(do="close")
    export(path, tmp_path / "out")
    controls, frames = pd.read_csv(tmp_path / "out" / "controls.csv"), np.load(ws.root / "frames.npy")
    for n, frame_id in enumerate(controls["frame_id"]):
        assert np.array_equal(images[12 + n], frames[frame_id])


def test_controls_are_of_test_patients_one_of_each_condition_and_have_files_of_their_own(ws, tmp_path):
    path, tokens = start(controls=4, turing=True)
    screened(path, tokens)
    reader = Reader(path, tokens["NS1"])
    assert reader.reply["of"] == 16
    while reader.reply["show"] == "image":
        reader.answer("origin", "archive")
        reader.grade("2", "2", "not_present")
    export(path, tmp_path)
    controls, arterial = (
        pd.read_csv(tmp_path / "controls.csv"),
        pd.read_parquet(ws.root / "arterial.parquet").set_index("frame_id"),
    )
    chosen = arterial.loc[controls["frame_id"]]
    assert set(chosen["split"]) == {"test"} and chosen["series"].is_unique and chosen["cell"].nunique() == 4
    assert controls["plane"].tolist() == chosen["plane"].tolist() and set(controls["origin"]) == {"archive"}
    of_controls, ratings = (pd.read_csv(tmp_path / name) for name in ("control_ratings.csv", "ratings.csv"))
    assert set(of_controls["image_id"]) == set(controls["image_id"]) and len(of_controls) == 12
    assert set(of_controls["origin"]) == set(ratings["origin"]) == {"readers"}
    assert not set(controls["image_id"]) & {*ratings["image_id"], *pd.read_csv(tmp_path / "screening.csv")["image_id"]}
    turing = pd.read_csv(tmp_path / "turing.csv")
    assert turing.groupby("truth").size().to_dict() == {"archive": 4, "generated": 12} and set(turing["answer"]) == {
        "archive"
    }
    assert set(turing.loc[turing["truth"] == "archive", "image_id"]) == set(controls["image_id"])


def test_somebody_may_screen_only(ws):
    path, tokens = start(raters="A:NR,B:IM", screener="Senior:NR")
    senior = Reader(path, tokens["Senior"])
    while senior.reply["show"] == "image":
        senior.answer("kept", "true", then="continue")
    assert senior.reply == senior.reply | {"show": "end", "stage": "screening", "kept": 12}
    assert senior.tell(do="close")["stage"] == "thanks"
    assert Reader(path, tokens["A"]).reply["stage"] == "rating"


def test_nothing_kept_is_told_and_exported(ws, tmp_path):
    path, tokens = start()
    senior = screened(path, tokens, reject=range(12))
    assert senior.reply["show"] == "end" and senior.reply["of"] == 0
    export(path, tmp_path)
    assert (
        open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv").notes[0].startswith("No image was kept")
    )


# --- order of work ------------------------------------------------------------------------------------------------------------------------------


def test_moving_back_correcting_and_going_on(ws):
    path, tokens = start()
    screened(path, tokens)
    reader = Reader(path, tokens["NR2"])
    assert (
        reader.go("next")["note"] == "Still to be graded here: proximal, medium, peripheral."
        and reader.reply["position"] == 1
    )
    reader.answer("proximal", "4")
    assert reader.go("continue")["note"] == "Still to be graded here: medium, peripheral."
    reader.grade("4", "3", "2")
    reader.grade("1", "1", "1")
    assert reader.reply["position"] == 3
    assert (
        reader.go("previous")["position"] == 2
        and reader.go("previous")["position"] == 1
        and reader.go("previous")["position"] == 1
    )
    assert reader.reply["answers"] == {"proximal": "4", "medium": "3", "peripheral": "2"} and reader.reply["complete"]
    reader.answer("medium", "5")
    assert reader.go("next")["position"] == 2
    assert reader.go("continue")["position"] == 3  # the first that is not graded
    audit = Store(path).rows("SELECT field, old, new FROM audit WHERE rater = 1")
    assert ("medium", "3", "5") in audit and ("proximal", "", "4") in audit and len(audit) == 7


def test_an_answer_taken_back_is_missing_again(ws, tmp_path):
    path, tokens = start()
    screened(path, tokens)
    reader = Reader(path, tokens["NR2"])
    reader.answer("proximal", "4")
    reader.answer("proximal", "")
    assert reader.reply["answers"] == {} and not reader.reply["complete"]
    reader.answer("medium", "2")
    export(path, tmp_path)
    assert pd.read_csv(tmp_path / "ratings.csv")["segment"].tolist() == ["medium"]


def test_two_tabs_of_one_rater(ws, tmp_path):
    """The last write wins, both are in the audit trail, nothing is there twice, and the tab that lags moves on to what is open."""
    path, tokens = start()
    screened(path, tokens)
    one, two = Reader(path, tokens["IM1"]), Reader(path, tokens["IM1"])
    assert one.reply["key"] == two.reply["key"]
    two.grade("1", "1", "1")
    two.grade("2", "2", "2")
    assert two.reply["position"] == 3
    assert one.answer("proximal", "5")["answers"] == {"proximal": "5", "medium": "1", "peripheral": "1"}
    assert one.go("continue")["position"] == 3
    export(path, tmp_path)
    ratings = pd.read_csv(tmp_path / "ratings.csv")
    assert len(ratings) == 6 and not ratings.duplicated(["image_id", "rater", "segment"]).any()
    assert ratings.groupby("image_id")["rating"].agg(list).sort_values().tolist() == [[2, 2, 2], [5, 1, 1]]
    audit = pd.read_csv(tmp_path / "audit.csv", dtype=str, keep_default_na=False)
    assert audit.loc[audit["old"] == "1", ["rater", "field", "new"]].to_numpy().tolist() == [["IM1", "proximal", "5"]]


def test_a_tab_left_open_in_the_screening_changes_nothing_after_its_close(ws):
    path, tokens = start()
    stale = Reader(path, tokens["NR1"])
    screened(path, tokens)
    before = Store(path).rows("SELECT * FROM answers")
    reply = stale.answer("kept", "false", then="continue")
    assert reply["stage"] == "rating" and "nothing was changed" in reply["note"] and reply["show"] == "image"
    assert Store(path).rows("SELECT * FROM answers") == before


def test_screening_is_closed_by_its_reader_alone_and_when_all_is_decided(ws):
    path, tokens = start()
    senior, other = Reader(path, tokens["NR1"]), Reader(path, tokens["NR2"])
    assert "12 images are not decided" in senior.tell(do="close")["note"]
    assert other.tell(do="close")["stage"] == "waiting" and not Store(path).screening_closed
    assert other.tell(do="answer", key=senior.reply["key"], field="kept", value="true")["stage"] == "waiting"
    assert not Store(path).rows("SELECT * FROM answers")


def test_images_of_another_rater_cannot_be_named(ws):
    path, tokens = start()
    screened(path, tokens)
    one, two = Reader(path, tokens["NR2"]), Reader(path, tokens["NS1"])
    reply = two.tell(do="answer", key=one.reply["key"], field="proximal", value="1")
    assert "nothing was changed" in reply["note"] and not Store(path).rows(
        "SELECT * FROM answers WHERE field = 'proximal'"
    )


@pytest.mark.parametrize(
    "field, value",
    [
        ("proximal", "6"),
        ("proximal", "3.5"),
        ("origin", "maybe"),
        ("circulation", "anterior"),
        ("kept", "true"),
        ("frame", "1"),
    ],
)
def test_a_value_that_no_button_sends_is_refused(ws, field, value):
    path, tokens = start()
    screened(path, tokens)
    reader = Reader(path, tokens["NR2"])
    before = Store(path).rows("SELECT * FROM answers")
    assert reader.answer(field, value)["note"]
    assert Store(path).rows("SELECT * FROM answers") == before


def test_nothing_is_told_without_a_token(ws):
    path, tokens = start()
    for token in ("", "aaaa-aaaa-aaaa-aaaa", tokens["NR1"][:-1]):
        reader = Reader(path, token)
        assert reader.reply["show"] == "login" and set(reader.reply) == {"show", "note"}
        assert ("not known" in reader.reply["note"]) == bool(token)
        assert reader.tell(do="go", key="x", to="here") == {"show": "login", "note": ""}
    assert Reader(path, tokens["NR1"].upper().replace("-", " ")).reply["show"] == "image"  # as typed from paper


# --- on disk --------------------------------------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from dsa_lib.rating.store import Store
store = Store(Path(sys.argv[1]))
rater = store.raters()[1]
for n in range(10**6):
    store.put(rater, n % 12, "medium", str(1 + n % 5))
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(ws):
    path, tokens = start()
    screened(path, tokens)
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(0.3)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        last = told[-1]
        store = Store(path)
        kept = store.answers(store.raters()[1])
        # The write after the last one told may have been committed before its line was printed.
        assert kept[last % 12]["medium"] == str(1 + last % 5)
        for back in range(1, 11):
            assert kept[(last - back) % 12]["medium"] in (str(1 + (last - back) % 5), str(1 + (last + 1) % 5))
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
        latest = store.rows("SELECT image, new FROM audit WHERE field = 'medium' ORDER BY entry DESC LIMIT 1")[0]
        assert kept[latest[0]]["medium"] == latest[1]
        store.close()


def test_every_answer_is_written_through_and_the_file_is_its_owners(ws):
    path, _ = start()
    store = Store(path)
    assert store.rows("PRAGMA journal_mode") == [("wal",)] and store.rows("PRAGMA synchronous") == [(2,)]  # 2: FULL
    assert (
        not path.stat().st_mode & 0o077
        and not tokens_file(path).stat().st_mode & 0o077
        and not path.parent.stat().st_mode & 0o077
    )


def test_audit_trail_cannot_be_edited(ws):
    path, tokens = start()
    screened(path, tokens)
    with sqlite3.connect(path) as db:
        for statement in ("UPDATE audit SET new = '5'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="audit trail"):
                db.execute(statement)


def test_tokens_stay_and_a_lost_list_is_drawn_anew(ws):
    path, tokens = start()
    assert start()[1] == tokens
    assert not any(token in path.read_bytes().decode("latin1") for token in tokens.values())
    tokens_file(path).unlink()
    _, fresh = start()
    assert not set(fresh.values()) & set(tokens.values())
    assert Reader(path, tokens["NR1"]).reply["show"] == "login" and Reader(path, fresh["NR1"]).reply["show"] == "image"


# --- marking frames ------------------------------------------------------------------------------------------------------------------------------


def test_annotations_are_those_that_notebook_02_reads(ws, tmp_path):
    path, tokens = start(mode="annotate")
    expert = Reader(path, tokens["NR1"])
    assert expert.reply["stage"] == "annotation" and expert.reply["of"] == 12 and len(expert.pixels) == 5
    wanted = {}
    for n in range(12):
        image = next(p.image for p in expert.sitting._places() if p.key == expert.reply["key"])
        if n == 3:
            expert.answer("frame", "none", then="continue")
            continue
        wanted[f"S{image:010x}"] = n % 5 + image % 2  # runs of odd number count their frames from 1
        expert.answer("frame", str(n % 5), then="continue")
    assert expert.reply["show"] == "end"
    sentences = export(path, tmp_path)
    assert any("12 of 12 series; 1 have no frame" in sentence for sentence in sentences)
    series = pd.read_parquet(ws.root / "series.parquet")
    key = series[["series"]].assign(
        series_instance_uid="1." + series["series"], sop_instance_uid="2." + series["series"]
    )
    found = annotations.read_annotations(tmp_path / "annotations.csv", key, series)
    assert dict(zip(found["series"], found["frame"], strict=True)) == wanted
    again = Reader(path, tokens["NR1"])
    again.tell(do="go", key=again.reply["last"], to="here")
    assert again.reply["answers"]["frame"] == str(11 % 5)  # shown as it was marked
    assert "no frame 5" in again.answer("frame", "5")["note"]


def test_an_expert_sees_frames_of_the_size_of_the_file(ws, monkeypatch):
    path, tokens = start(mode="annotate", series=2)
    asked = []

    def stored(_ws, series, numbers):
        asked.append((series, numbers))
        return np.full((len(numbers), 96, 96), 7, np.uint8)

    monkeypatch.setattr(studies.cohort, "stored_frames", stored)
    expert = Reader(path, tokens["NR1"])
    ((series, numbers),) = asked
    frames = pd.read_parquet(ws.root / "frames.parquet")
    assert numbers == frames.loc[frames["series"] == series, "frame"].tolist()
    assert {Image.open(io.BytesIO(png)).size for png in expert.pixels} == {(96, 96)}


def test_some_series_and_several_experts(ws, tmp_path):
    path, tokens = start(mode="annotate", series=3, raters="A:NR,B:NS")
    for name in tokens:
        expert = Reader(path, tokens[name])
        assert expert.reply["of"] == 3
        expert.answer("frame", "2", then="continue")
    export(path, tmp_path)
    assert sorted(p.name for p in tmp_path.glob("annotations*")) == ["annotations_A.csv", "annotations_B.csv"]


# --- bad input -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, words",
    [
        (dict(run="nobody"), "there is no run 'nobody'"),
        (dict(run="../up"), "run name"),
        (dict(mode="judge"), "MODE=judge is unknown"),
        (dict(study="a/b"), "study's name"),
        (dict(raters="NR1"), "'NR1' is not a rater"),
        (dict(raters="NR1:XX"), "roles NR, NS, IM, other"),
        (dict(raters="A:NR,A:NS"), "somebody twice"),
        (dict(raters="A:NR,a:NR"), "somebody twice"),
        (dict(raters="A:NR", screener="a:NR"), "is a rater already"),
        (dict(raters=" , "), "nobody"),
        (dict(screener="Z"), "SCREENER=Z is none of the raters"),
        (dict(controls=400), "more than the 8 arterial frames of test patients"),
        (dict(controls=-1), "CONTROLS=-1"),
        (dict(mode="annotate", series=13), "SERIES=13 of 12"),
        (dict(mode="annotate", controls=1), "belong to MODE=rate"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(ws, asked, words):
    with pytest.raises(StudyError, match=re.escape(words)) as fault:
        begin(Asked(**{"run": "tiny", **asked}))
    assert "\n" not in str(fault.value)
    assert not list(ws.root.glob("private/reader_study/*.db"))


@pytest.mark.parametrize(
    "asked, words",
    [
        (dict(raters="A:NR"), "other raters"),
        (dict(screener="NR2"), "other raters"),
        (dict(controls=2), "other controls"),
        (dict(turing=True), "other turing"),
        (dict(seed=7), "other seed"),
        (dict(mode="annotate", study="ratings"), "in mode rate, not of 'tiny' in mode annotate"),
    ],
)
def test_a_study_that_has_begun_is_not_changed_by_another_request(ws, asked, words):
    start()
    with pytest.raises(StudyError, match=re.escape(words)):
        start(**asked)
    start(raters=DEFAULT_RATERS["rate"], controls=0, turing=False, seed=0)  # the same said aloud


def test_a_run_without_reader_set(ws):
    (ws.root / "manifests" / "05_sampling.json").unlink()
    with pytest.raises(StudyError, match=r"has no reader set yet: run notebooks/05_sampling\.ipynb"):
        start()
    made_up_run.record(ws, "05_sampling", status="skipped", reason="ldm was not made: too few patients.")
    with pytest.raises(StudyError, match="has no reader set: ldm was not made"):
        start()


def test_another_reader_set_does_not_slip_under_a_study(ws, tmp_path):
    path, tokens = start()
    screened(path, tokens)
    made_up_run.reader_set(ws, seed=5)
    for go_on in (start, lambda: open_sitting(path)):
        with pytest.raises(StudyError, match="was regenerated after this study began"):
            go_on()
    export(path, tmp_path)  # what was answered is never locked in
    assert len(pd.read_csv(tmp_path / "screening.csv")) == 12


@pytest.mark.parametrize("content", [b"", b"no database at all", None])
def test_a_file_that_is_no_study(ws, content):
    path = location("tiny", "ratings")
    path.parent.mkdir(parents=True)
    if content is None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE ratings (x)")
    else:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=r"ratings\.db is no reader study"):
        start()


def test_a_study_of_another_run(ws, tmp_path):
    path, _ = start()
    made_up_run.whole("other")
    there = location("other", "ratings")
    Workspace("other").private("reader_study/x")
    there.write_bytes(path.read_bytes())
    with pytest.raises(StudyError, match="is a study of run 'tiny' in mode rate, not of 'other'"):
        begin(Asked("other"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["serve", "--run", "nobody"], "there is no run 'nobody'"),
        (["serve"], "add RUN=name"),
        (["serve", "--run", "tiny", "--port", "many"], "PORT=many"),
        (["serve", "--run", "tiny", "--port", "99999"], "PORT=99999"),
        (["serve", "--run", "tiny", "--turing", "perhaps"], "TURING=perhaps"),
        (["serve", "--run", "tiny", "--host", "203.0.113.7"], "port 8866 of 203.0.113.7 cannot be used"),
        (["export", "--run", "tiny"], "there is no study in ratings.db: start it with make readers"),
    ],
)
def test_the_command_answers_in_one_sentence(ws, arguments, words, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and words in said and "\n" not in said


def test_a_port_in_use(ws, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--run", "tiny", "--port", str(taken.getsockname()[1])]) == 1
    assert "choose another with PORT=number" in capsys.readouterr().err


def test_a_run_with_answers_is_not_removed(ws):
    start()
    command = [sys.executable, "workflow/launch.py", "--run", "tiny", "--clean"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode != 0
        and "holds what readers have answered" in done.stderr
        and location("tiny", "ratings").exists()
    )
    shutil.rmtree(location("tiny", "ratings").parent)
    assert (
        subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=120).returncode == 0 and not ws.root.exists()
    )


# --- the notebook ---------------------------------------------------------------------------------------------------------------------------------


def test_the_widget_holds_script_and_style_alone(ws):
    path, tokens = start(controls=4, turing=True)
    screened(path, tokens)
    page = rating_page("tiny")
    sent = []
    page.send = lambda content, buffers=None: sent.append((content, buffers))
    page._answer(page, {"view": "v", "request": 1, "do": "hello", "token": tokens["NR2"]}, [])
    assert sent[0][0]["show"] == "image" and len(sent[0][1]) == 1
    state = json.dumps({name: str(value) for name, value in page.get_state().items()})
    plan = pd.read_parquet(ws.root / "samples/reader/manifest.parquet")
    for word in {
        *plan["image_id"],
        *plan["circulation"],
        *plan["cell"],
        sent[0][0]["key"],
        *tokens.values(),
        "tiny",
        str(ws.root),
    }:
        assert word not in state
    assert isinstance(page._sittings["v"], Sitting)
    page._answer(page, {"view": "v", "do": "leave"}, [])
    assert not page._sittings


def test_without_a_study_the_notebook_says_so(ws, capsys):
    assert rating_page("tiny") is None
    assert "start it with make readers" in capsys.readouterr().out


def test_store_formats_are_told_apart(ws, monkeypatch):
    path, _ = start()
    monkeypatch.setattr(stores, "FORMAT", 2)
    with pytest.raises(StudyError, match="of another version"):
        Store(path)


def test_the_page_opens_with_vessels_dark_and_the_field_at_three_quarters():
    frames = np.full((3, 100, 100), 162, np.uint8)
    frames[:, :3, :] = 70  # 3 % of the pixels
    width, level = studies._window(frames)

    def shown(grey):  # as the page applies it
        return (grey - level) / width + 0.5

    assert shown(70) == pytest.approx(0, abs=0.01) and shown(162) == pytest.approx(0.75, abs=0.01)
    assert studies._window(np.full((1, 8, 8), 162, np.uint8))[0] == 64  # a field alone is not stretched to noise

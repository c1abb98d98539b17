"""A study's answers as the files that notebooks 02 and 06 take, and everything else that was recorded (data_manifests/schemas/reader_study.md)."""

from pathlib import Path

import pandas as pd

from dsa_lib.rating.store import NO_FRAME, SEGMENTS, Store
from dsa_lib.readers import rating_origin
from dsa_lib.readers.rating_files import FLAGS, RATINGS, SCREENING, open_reader_study, write_study
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

_SCREENED = """SELECT image_id, circulation, plane, value AS kept, kind, first_frame FROM answers JOIN images USING (image)
  WHERE field = 'kept' ORDER BY image"""
_RATED = """SELECT image_id, kind, raters.name, role, field, value FROM answers JOIN images USING (image) JOIN raters USING (rater)
  WHERE value <> '' AND field NOT IN ('kept', 'frame') ORDER BY image, rater"""
_AUDIT = """SELECT time, raters.name, role, coalesce(image_id, ''), field, old, new FROM audit JOIN raters USING (rater) LEFT JOIN images USING (image)
  ORDER BY entry"""
_MARKED = """SELECT raters.name, image_id, value FROM answers JOIN images USING (image) JOIN raters USING (rater)
  WHERE field = 'frame' AND value <> '' ORDER BY rater, image"""
AUDIT_COLUMNS = ["time", "rater", "role", "image_id", "field", "old", "new"]


def export(study: Path, folder: Path) -> list[str]:
    """Write the files of the study into `folder`, each atomically; returns sentences on what was written and what is still open.

    The answers may be exported at any time, while raters are at work too. `ratings.csv` holds generated images alone; real frames that were mixed in have
    files of their own.
    """
    store = Store(study)
    try:
        facts = store.facts()
        tables, notes = (_annotations if facts["mode"] == "annotate" else _reader_study)(store, facts)
        tables["audit.csv"] = pd.DataFrame(store.rows(_AUDIT), columns=AUDIT_COLUMNS)
    finally:
        store.close()
    folder = Path(folder)
    pair = [name for name in ("screening.csv", "ratings.csv") if name in tables]
    if pair:
        write_study(*(tables[name] for name in pair), *(folder / name for name in pair), rating_origin.READERS)
    for name, table in tables.items():
        if name not in pair:
            with atomic_write(folder / name) as temporary:
                table.to_csv(temporary, index=False)
    if len(tables.get("ratings.csv", ())):  # what notebook 06 will do first
        notes += open_reader_study(folder / "screening.csv", folder / "ratings.csv").notes
    return [f"{name}: {len(table)} row{'s' * (len(table) != 1)}" for name, table in tables.items()] + notes


def _reader_study(store: Store, facts: dict[str, str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    screened = pd.DataFrame(
        store.rows(_SCREENED), columns=["image_id", "circulation", "plane", "kept", "kind", "frame_id"]
    )
    answers = pd.DataFrame(store.rows(_RATED), columns=["image_id", "kind", "rater", "role", "field", "value"])
    ratings = _contract_rows(answers)
    control = ratings["kind"].eq("control")
    tables = {
        "screening.csv": screened.loc[screened["kind"] == "generated", list(SCREENING.columns)].assign(
            kept=lambda table: table["kept"].eq("true")
        ),
        "ratings.csv": ratings.loc[~control, list(RATINGS.columns)].assign(
            rating=lambda table: pd.to_numeric(table["rating"], errors="coerce")  # empty where a flag is set
        ),
    }
    if facts["controls"] != "0":
        of_controls = screened[screened["kind"] == "control"].assign(origin=facts["origin"]).astype({"frame_id": int})
        tables["controls.csv"] = of_controls[["image_id", "frame_id", "origin", "circulation", "plane", "kept"]]
        of_readers = {rating_origin.COLUMN: rating_origin.READERS}
        tables["control_ratings.csv"] = ratings.loc[control, list(RATINGS.columns)].assign(**of_readers)
    if facts["turing"] == "true":
        asked = answers[answers["field"] == "origin"]
        truth = asked["kind"].map({"control": "archive", "generated": "generated"})
        tables["turing.csv"] = asked.assign(truth=truth, answer=asked["value"])[
            ["image_id", "rater", "role", "truth", "answer"]
        ]
    (of,) = store.rows("SELECT count(*) FROM images")[0]
    notes = (
        []
        if store.screening_closed
        else [f"The screening is not closed: {len(screened)} of {of} images are decided, and no rating has begun."]
    )
    if facts["controls"] != "0":
        kept = screened.loc[screened["kind"] == "control", "kept"].eq("true").sum()
        notes.append(
            f"{kept} of {facts['controls']} real frames that were mixed in were kept by the screening; only these are rated."
        )
    return tables, notes


def _contract_rows(answers: pd.DataFrame) -> pd.DataFrame:
    """One row an image, rater and segment (ratings.csv); an external circulation stands on all three, over grades given before it was seen."""
    keys = ["image_id", "kind", "rater", "role"]
    rows = []
    for key, own in answers.groupby(keys, sort=False):
        given = dict(zip(own["field"], own["value"], strict=True))
        for segment in SEGMENTS:
            value = "external_circulation" if "external_circulation" in given else given.get(segment)
            if value is not None:
                flag = value if value in FLAGS else ""
                rows.append((*key, segment, "" if flag else value, flag))
    return pd.DataFrame(rows, columns=[*keys, "segment", "rating", "flag"])


def _annotations(store: Store, facts: dict[str, str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """annotations.csv, or one file a person where several have marked frames: a series has one representative frame."""
    marked = pd.DataFrame(store.rows(_MARKED), columns=["rater", "series", "frame"])
    if marked.empty:
        raise StudyError("no frame has been marked yet: mark some with make readers MODE=annotate first")
    tables, notes = {}, []
    for rater, own in marked.groupby("rater", sort=False):
        name = "annotations.csv" if marked["rater"].nunique() == 1 else f"annotations_{rater}.csv"
        without = own["frame"].eq(NO_FRAME)
        tables[name] = own.loc[~without, ["series", "frame"]]
        (of,) = store.rows("SELECT count(*) FROM images")[0]
        notes.append(
            f"{rater} has seen {len(own)} of {of} series; {without.sum()} have no frame that could stand for the arterial phase."
        )
    return tables, notes

"""What is known of a frame's phase: an expert's annotations (the only labels the classifier sees), window labels made from them, phantom truth.

§2.2: each annotated series has one representative arterial-phase frame. The paper gives no rule for the other frames of the series; the windows
of `window_labels` are this project's rule, its limits named profile fields.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.errors import StudyError
from dsa_lib.profiles import Classifier

PHASES = ("before_contrast", "arterial", "capillary", "venous")  # names of the phantom's truth, in their order in time
ARTERIAL = "arterial"
MINIMUM_PATIENTS = 2  # with one patient, what is the phase and what is this patient's anatomy cannot be told apart


def read_annotations(path: Path, key: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Representative arterial frames from a CSV file `series_instance_uid,frame[,sop_instance_uid]`, frame counted from 0.

    `key` [series, series_instance_uid, sop_instance_uid] maps the archive's identifiers to pseudonyms, `series` [series, frames, kept] is the curated
    list. `sop_instance_uid` is needed only where one series of the archive holds several runs. Returns columns series, frame: one row a kept series;
    rows of series that curation excluded are dropped. Raises StudyError for an unknown series, a frame out of range, a duplicate, or a file of another
    form; it names file and line, never an identifier: the sentence stays in executed notebooks and logs.
    """
    name = Path(path).name
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{name} cannot be read as annotations ({type(error).__name__}): give a CSV file with the columns series_instance_uid,frame"
        ) from None
    absent = [column for column in ("series_instance_uid", "frame") if column not in rows.columns]
    if absent:
        raise StudyError(
            f"{name} has no column {' and '.join(absent)}: its first line must be series_instance_uid,frame"
        )
    if rows.empty:
        raise StudyError(f"{name} has no rows: annotate one representative arterial frame in some series")
    by_uid = {uid: part for uid, part in key.groupby("series_instance_uid")}
    frames = series.set_index("series")["frames"]
    seen: dict[str, int] = {}
    found = []
    for line, row in enumerate(rows.to_dict("records"), start=2):
        uid = row["series_instance_uid"].strip()
        if uid not in by_uid:
            raise StudyError(
                f"{name}, line {line}: this series_instance_uid is not in this archive; correct it (unreadable files: quarantine.csv)"
            )
        runs = by_uid[uid]
        sop = str(row.get("sop_instance_uid") or "").strip()
        if sop:
            runs = runs[runs["sop_instance_uid"] == sop]
            if runs.empty:
                raise StudyError(f"{name}, line {line}: its series has no such instance; correct sop_instance_uid")
        if len(runs) > 1:
            raise StudyError(
                f"{name}, line {line}: its series holds {len(runs)} runs; add a column sop_instance_uid that says which one is meant"
            )
        pseudonym = runs["series"].iloc[0]
        if pseudonym in seen:
            raise StudyError(
                f"{name}, line {line}: its series is annotated already in line {seen[pseudonym]}; keep one representative frame a series"
            )
        seen[pseudonym] = line
        text = str(row["frame"]).strip()
        count = int(frames.get(pseudonym, 0))
        if not text.isdecimal():
            raise StudyError(f"{name}, line {line}: frame {text!r} is not a whole number counted from 0; correct it")
        if pseudonym in frames.index and int(text) >= count:
            raise StudyError(
                f"{name}, line {line}: frame {text} is out of range, its series has frames 0 to {count - 1}; frames are counted from 0"
            )
        found.append({"series": pseudonym, "frame": int(text)})
    kept = set(series.loc[series["kept"].astype(bool), "series"])
    table = pd.DataFrame(found)
    return table[table["series"].isin(kept)].reset_index(drop=True)


def window_labels(frames: pd.DataFrame, annotations: pd.DataFrame, settings: Classifier) -> pd.DataFrame:
    """Frames of annotated series with a label, by their time from the representative frame.

    Arterial (1) from `positive_before_s` before to `positive_after_s` after it; not arterial (0) earlier than `negative_before_s` before or later than
    `negative_after_s` after it; frames in between, where the phase changes, are left out. `frames` has the columns of frames.parquet; returns its rows
    that got a label, with columns offset_s (signed, s) and label (float). Time stamps decide and not frame counts, so that the rule means the same at any
    frame rate.
    """
    joined = frames.merge(annotations.rename(columns={"frame": "representative"}), on="series")
    at = joined[joined["frame"] == joined["representative"]].set_index("series")["time_s"]
    # Rounded: a frame 1.5 s away at 0.3 s a frame lies on the border of 1.5 s, not beyond it by floating point.
    joined["offset_s"] = (joined["time_s"] - joined["series"].map(at)).round(6)
    offset = joined["offset_s"]
    positive = (offset >= -settings.positive_before_s) & (offset <= settings.positive_after_s)
    negative = (offset < -settings.negative_before_s) | (offset > settings.negative_after_s)
    joined["label"] = np.select([positive, negative], [1.0, 0.0], np.nan)
    return joined.dropna(subset="label").drop(columns="representative").reset_index(drop=True)


def counts(split: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Patients, annotated series and frames of either label in each split, for the eye."""
    return pd.DataFrame(
        {
            name: {
                "patients": rows["patient"].nunique(),
                "annotated series": rows["series"].nunique(),
                "arterial frames": int((rows["label"] == 1).sum()),
                "other frames": int((rows["label"] == 0).sum()),
            }
            for name, rows in split.items()
        }
    )


def label_digest(*tables: pd.DataFrame) -> str:
    """sha256 of labelled frames [frame_id, label]: part of what a training's checkpoint belongs to."""
    text = "\n".join(table[["frame_id", "label"]].to_csv(index=False) for table in tables)
    return hashlib.sha256(text.encode()).hexdigest()


def read_key(path: Path) -> pd.DataFrame:
    """The private mapping [series, series_instance_uid, sop_instance_uid, file] from pseudonyms back to the archive, written by notebook 01."""
    if not Path(path).exists():
        raise StudyError(
            f"{Path(path).name} is missing from the run's private folder: run notebooks/01_curation.ipynb again"
        )
    return pd.read_parquet(path)


def require_enough(labelled: pd.DataFrame) -> None:
    """Raise StudyError unless the training labels come from MINIMUM_PATIENTS patients and name both kinds of frame."""
    patients = labelled["patient"].nunique()
    if patients < MINIMUM_PATIENTS:
        raise StudyError(
            f"the annotations cover {patients} patient(s) of the training split: annotate series of at least "
            f"{MINIMUM_PATIENTS} training patients, or give a trained classifier"
        )
    kinds = set(labelled["label"])
    if kinds != {0.0, 1.0}:
        lacking = "arterial" if 1.0 not in kinds else "non-arterial"
        raise StudyError(
            f"the annotations give no {lacking} training frame: suit classifier.positive_before_s, "
            "positive_after_s, negative_before_s and negative_after_s to the runs' length"
        )


def true_phase(frames: pd.DataFrame, key: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    """The phantom's true phase of every row of `frames` (index kept): a score's reference, never a label for training.

    `key` as in `read_annotations`; `truth` is archive_truth.parquet [sop_instance_uid, frame, phase]. Raises StudyError if a frame has no truth.
    """
    sop = frames["series"].map(key.set_index("series")["sop_instance_uid"])
    lookup = truth.set_index(["sop_instance_uid", "frame"])["phase"]
    phase = lookup.reindex(pd.MultiIndex.from_arrays([sop, frames["frame"]]))
    if phase.isna().any():
        raise StudyError(
            f"archive_truth.parquet lacks {int(phase.isna().sum())} of {len(frames)} curated frames: "
            "run notebooks/00_phantom_archive.ipynb and 01_curation.ipynb again"
        )
    return pd.Series(phase.to_numpy(), index=frames.index, name="phase")

"""What is known of a frame's phase: an expert's annotations (the only labels the classifier sees), window labels made from them, phantom truth.

§2.2: each annotated series has one representative arterial-phase frame. The paper gives no rule for the other frames of the series; the windows
of `window_labels` are this project's rule, its limits named profile fields.
"""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Classifier

PHASES = ("before_contrast", "arterial", "capillary", "venous")  # names of the phantom's truth, in their order in time
ARTERIAL = "arterial"
MINIMUM_PATIENTS = 2  # with one patient, what is the phase and what is this patient's anatomy cannot be told apart


ANNOTATIONS = pa.DataFrameSchema(
    {
        "series": pa.Column(
            str, pa.Check.str_length(min_value=1, error="is empty: name the series, or remove the line")
        ),
        "frame": pa.Column(
            str, pa.Check.str_matches(r"^\d+$", error="is not a whole number counted from 0: correct it")
        ),
        "sop_instance_uid": pa.Column(str),  # empty where the series alone says which run is meant
    }
)


def read_annotations(path: Path, key: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Representative arterial frames from a CSV file `series,frame[,sop_instance_uid]`, frame counted from 0 (data_manifests/schemas/annotations.md).

    `key` [series, series_instance_uid, sop_instance_uid] maps the archive's identifiers to pseudonyms, `series` [series, frames_in_file, kept] is the curated
    list. The file names a series by the run's pseudonym or by its series instance UID; the column may be called `series_instance_uid` as well.
    `sop_instance_uid` is needed only where a UID stands for several runs. Returns columns series, frame: one row a kept series; rows of series that
    curation excluded are dropped. Raises StudyError for an unknown series, a frame out of range, a duplicate, or a file of another form; it names
    file and line, never a value: the sentence stays in executed notebooks and logs.
    """
    name = Path(path).name
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (OSError, ValueError) as error:  # of pandas: ParserError, EmptyDataError, UnicodeDecodeError
        raise StudyError(
            f"{name} cannot be read as annotations ({type(error).__name__}): give a CSV file with the columns series,frame"
        ) from None
    rows.columns = rows.columns.str.strip()
    named = [column for column in ("series", "series_instance_uid") if column in rows.columns]
    if len(named) > 1:
        raise StudyError(
            f"{name} has both series and series_instance_uid: keep the one that says which series is meant"
        )
    rows = rows.rename(columns={column: "series" for column in named})
    absent = [column for column in ("series", "frame") if column not in rows.columns]
    if absent:
        semicolons = "; it is to be saved with commas, not semicolons" if ";" in "".join(rows.columns) else ""
        raise StudyError(
            f"{name} has no column {' and '.join(absent)}: its first line must be series,frame{semicolons}"
        )
    rows.index += 2  # the line in the file
    return match_annotations(rows[(rows != "").any(axis=1)], key, series, name)


def match_annotations(rows: pd.DataFrame, key: pd.DataFrame, series: pd.DataFrame, source: str) -> pd.DataFrame:
    """`read_annotations` from a table [series, frame, sop_instance_uid] of texts, its index the line; `source` is named in faults."""
    if rows.empty:
        raise StudyError(f"{source} has no rows: annotate one representative arterial frame in some series")
    rows = rows.reindex(columns=list(ANNOTATIONS.columns), fill_value="").apply(lambda column: column.str.strip())
    rows["frame"] = rows["frame"].str.replace(
        r"^(\d+)\.0+$", r"\1", regex=True
    )  # as spreadsheets save columns with gaps
    try:
        ANNOTATIONS.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as faults:
        first = faults.failure_cases.sort_values("index", kind="stable").iloc[0]
        raise StudyError(f"{source}, line {first['index']}: its {first['column']} {first['check']}") from None
    runs_of = key.groupby("series_instance_uid").groups | key.groupby("series").groups
    length = series.set_index("series")["frames_in_file"]
    seen: dict[str, int] = {}
    found = []
    for line, row in zip(rows.index, rows.itertuples(index=False), strict=True):

        def fault(sentence: str, line: int = line) -> StudyError:
            return StudyError(f"{source}, line {line}: {sentence}")

        if row.series not in runs_of:
            raise fault("its series is not in this archive; correct it (unreadable files: quarantine.csv)")
        runs = key.loc[runs_of[row.series]]
        if row.sop_instance_uid:
            runs = runs[runs["sop_instance_uid"] == row.sop_instance_uid]
            if runs.empty:
                raise fault("its series has no such instance; correct sop_instance_uid")
        if len(runs) > 1:
            raise fault(
                f"its series holds {len(runs)} runs; name the run by its pseudonym (series.parquet), "
                "or add a column sop_instance_uid that says which one is meant"
            )
        pseudonym = runs["series"].iloc[0]
        if pseudonym in seen:
            raise fault(
                f"its series is annotated already in line {seen[pseudonym]}; keep one representative frame a series"
            )
        seen[pseudonym] = line
        if int(row.frame) >= length[pseudonym]:
            raise fault(
                f"frame {row.frame} is out of range, its series has frames 0 to {length[pseudonym] - 1}; frames are counted from 0"
            )
        found.append({"series": pseudonym, "frame": int(row.frame)})
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
    if lacking := sorted(set(joined["series"]) - set(at.index)):
        raise StudyError(
            f"the annotated frame of series {lacking[0]} is one that its mask module leaves unsubtracted: mark another"
            + (f" (likewise in {len(lacking) - 1} further series)" if len(lacking) > 1 else "")
        )
    # Rounded: a frame 1.5 s away at 0.3 s a frame lies on the border of 1.5 s, not beyond it by floating point.
    joined["offset_s"] = (joined["time_s"] - joined["series"].map(at)).round(6)
    offset = joined["offset_s"]
    positive = (offset >= -settings.positive_before_s) & (offset <= settings.positive_after_s)
    negative = (offset < -settings.negative_before_s) | (offset > settings.negative_after_s)
    joined["label"] = np.select([positive, negative], [1.0, 0.0], np.nan)
    return joined.dropna(subset="label").drop(columns="representative").reset_index(drop=True)


def implied_prevalence(precision: float, recall: float, accuracy: float) -> tuple[float, float, float]:
    """(lowest, central, highest) share of positives among the frames that gave three published scores, each rounded to two decimals.

    Errors are FN + FP = π·[(1 − R) + R·(1 − P)/P] = 1 − A for a share π of positives, precision P, recall R and accuracy A. The bounds are those of
    values that round to the published ones.
    """

    def share(p: float, r: float, a: float) -> float:
        return (1 - a) / ((1 - r) + r * (1 - p) / p)

    corners = [
        share(precision + dp, recall + dr, accuracy + da) for dp, dr, da in itertools.product((-0.005, 0.005), repeat=3)
    ]
    return min(corners), share(precision, recall, accuracy), max(corners)


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


def best_filled(arterial: pd.DataFrame, count: int, least_share: float) -> pd.DataFrame:
    """Rows of `arterial` that show the arteries of their series best: at most `count` a series, in the order of `frame_id`.

    arterial: columns frame_id, series, frame (number in the file) and probability (of the arterial phase). Of the frames whose probability is at least
    `least_share` of the series' highest the latest are taken: the contrast then has come furthest, and a label map of the whole tree describes what is seen.
    """
    if count < 1:
        raise StudyError(f"anatomy.frames_per_series is {count}: take one frame of each series or more")
    best = arterial.groupby("series")["probability"].transform("max")
    sure = arterial[arterial["probability"] >= least_share * best]
    latest = sure.sort_values(["series", "frame"]).groupby("series").tail(count)
    return latest.sort_values("frame_id", ignore_index=True)

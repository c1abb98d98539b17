"""Pairs of unsubtracted and subtracted phantom frames that show a lesion, with its mask and its sentence.

Patients of their own, whom no archive has, are planned, rendered, written as DICOM and curated by the very code of the phantom archive
(`phantom.plan`, `truth.rendered_runs`, `dicom.series`); between growing a tree and injecting it, a lesion is added (`phantom.body.lesions`).
"""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.condition_sentences import Condition, Finding
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.core.splits import split_patients
from dsa_lib.dicom.series import native_frame, read_acquisition, subtracted_run
from dsa_lib.phantom.archive import code_digest, finished
from dsa_lib.phantom.body.lesions import KINDS, Lesion, add_lesion, lesion_mask
from dsa_lib.phantom.body.territories import Injection3D
from dsa_lib.phantom.imaging.acquisition import Bodies
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.phantom.truth import curated_mask, rendered_runs
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write, write_json

SEED_SPACE = 1_000_000_007  # added to the profile's seed: no patient of these is one of an archive of the same seed
NAMES = {"AVM": "arteriovenous malformation"}  # of a kind in a sentence, where it has another
NONE = ""  # the kind of an injection without a lesion


@dataclass(frozen=True)
class Found:
    """What became of the planned pairs: `shown` by kind, and `left_out`, whose lesion lies outside the field."""

    shown: dict[str, int]
    left_out: int


class LesionBodies(Bodies):
    """The bodies of one patient, with a lesion in those runs that have one: `kinds` by run number."""

    def __init__(self, patient, seed: int, number: int, kinds: dict[int, str]):
        super().__init__(patient, seed, number)
        self.seed, self.kinds, self.lesions = seed, kinds, {}

    def of(self, row: dict) -> Injection3D:
        body, kind = super().of(row), self.kinds[row["run"]]
        if kind == NONE:
            return body
        body, self.lesions[row["run"]] = add_lesion(
            body, row["side"], kind, np.random.default_rng([self.seed, 17, row["run"]])
        )
        return body


def plan(profile) -> pd.DataFrame:
    """The series to render, one row a plane, as `plan_archive` has them, with the column `lesion` (a kind of KINDS, or NONE).

    Only injections of one internal carotid or vertebral artery, which `add_lesion` knows; the planned share of them has a lesion, the kinds equally often.
    Both planes of a run show the same one.
    """
    config = replace(
        profile.archive,
        patients=profile.lesions.patients,
        series_per_study=profile.lesions.series_per_study,
        annotated_series=0,
    )
    rows = plan_archive(config, profile.seed + SEED_SPACE)
    rows = rows[(rows["kind"] == "kept") & rows["vessel"].isin(["ICA", "VA"])].reset_index(drop=True)
    runs = rows["run"].unique()
    ill = round(profile.lesions.lesion_share * len(runs))
    kinds = [KINDS[n % len(KINDS)] for n in range(ill)] + [NONE] * (len(runs) - ill)
    dealt = np.random.default_rng([profile.seed + SEED_SPACE, 19]).permutation(kinds)
    rows["lesion"] = rows["run"].map(dict(zip(runs, dealt, strict=True)))
    return rows


def pairs(profile, work: Path, workers: int = 2, progress=None) -> tuple[TranslationSet, Found]:
    """Render the pairs of `profile` (its sections lesions, archive, curation; its seed); `work` keeps what is done, and the same call goes on after a kill.

    One pair a series: source [1, size, size], the unsubtracted frame; target, the subtracted frame of the same moment, which is the arterial one that shows
    the lesion darkest (for an occlusion and without a lesion: the best filled). workers: processes; progress: as for `archive.write_archive`.
    Raises StudyError where too few patients are left for a split.
    """
    rows = plan(profile)
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    _claim(work, profile)
    patients = [of_patient.to_dict("records") for _, of_patient in rows.groupby("patient")]
    job = functools.partial(_render_patient, profile=profile, work=work)
    done = finished(patients, job, 1 if len(rows) < 40 else workers)
    for _ in progress(done, len(rows)) if progress else done:
        pass
    parts = [_read(_part(work, of_patient[0]["patient"])) for of_patient in patients]
    whole = {name: np.concatenate([part[name] for part in parts if len(part["kinds"])]) for name in parts[0]}
    table = pd.crosstab(whole["patients"], whole["kinds"])
    split, _ = split_patients(table, profile.lesions, profile.seed)
    part = np.array([split[patient] for patient in whole["patients"]])
    if set(part) != {"train", "val", "test"}:
        raise StudyError(
            f"the lesion pairs are of {len(table)} patients, too few to split: set lesions.patients to 6 or more"
        )
    names, counts = np.unique(whole["kinds"], return_counts=True)
    shown = {str(name) or "no lesion": int(count) for name, count in zip(names, counts, strict=True)}
    return TranslationSet(part=part, **whole), Found(shown, len(rows) - len(part))


def _render_patient(rows: list[dict], profile, work: Path) -> int:
    """All pairs of one patient, written as one file; returns the number of series."""
    path = _part(work, rows[0]["patient"])
    if path.exists():
        return len(rows)
    config, curation, seed = profile.archive, profile.curation, profile.seed + SEED_SPACE
    kinds = {row["run"]: row["lesion"] for row in rows}
    grown = functools.partial(LesionBodies, kinds=kinds)
    found: dict[str, list] = {name: [] for name in ("sources", "targets", "lesions", "kinds", "patients", "sentences")}
    for of_run, facts, rendered, bodies, files in rendered_runs(pd.DataFrame(rows), config, seed, True, grown):
        lesion = bodies.lesions.get(of_run[0]["run"])
        for row, fact, file in zip(of_run, facts, files, strict=True):
            mask = np.zeros((config.matrix, config.matrix), np.uint8)
            if lesion is not None:
                mask = lesion_mask(lesion, fact.arm, config.matrix).astype(np.uint8)
            inside = curated_mask(mask, file, curation.image_size) > 0
            if lesion is not None and inside.sum() < profile.lesions.least_pixels:
                continue
            pair = _pair(file, inside, lesion, rendered, curation)
            if pair is None:
                continue
            found["sources"].append(pair[0][None])
            found["targets"].append(pair[1])
            found["lesions"].append(inside)
            found["kinds"].append(row["lesion"])
            found["patients"].append(row["patient_id"])
            found["sentences"].append(_sentence(row, lesion))
    size = curation.image_size
    arrays = {
        "sources": np.array(found["sources"], np.uint8).reshape(-1, 1, size, size),
        "targets": np.array(found["targets"], np.uint8).reshape(-1, size, size),
        "lesions": np.array(found["lesions"], bool).reshape(-1, size, size),
        **{name: np.array(found[name], str) for name in ("kinds", "patients", "sentences")},
    }
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    return len(rows)


def _pair(file: Path, inside: np.ndarray, lesion: Lesion | None, rendered, curation):
    """(unsubtracted, subtracted) frame of the moment to show, or None where curation leaves no arterial frame."""
    facts = read_acquisition(file)
    run = subtracted_run(file, facts, curation.image_size, curation.background_grey, curation.contrast_per_grey)
    arterial = np.flatnonzero(rendered.phase[run.numbers] == "arterial")
    if not len(arterial):
        return None
    best = np.flatnonzero(run.numbers == rendered.representative)
    chosen = int(best[0]) if len(best) else int(arterial[-1])
    if lesion is not None and lesion.kind != "occlusion":
        chosen = int(arterial[np.argmin(run.frames[arterial][:, inside].mean(1))])
    return native_frame(file, facts, int(run.numbers[chosen]), curation.image_size), run.frames[chosen]


def _sentence(row: dict, lesion: Lesion | None) -> str:
    finding = None
    if lesion is not None:
        finding = Finding(NAMES.get(lesion.kind, lesion.kind), lesion.side, lesion.artery)
    return Condition(
        row["circulation"], row["plane"], row["primary_angle_deg"], row["secondary_angle_deg"], finding
    ).sentence()


def _part(work: Path, patient: int) -> Path:
    return work / f"{patient:06d}.npz"


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _claim(work: Path, profile) -> None:
    """Note whose pairs these are; those of other numbers, or of other code of the phantom, are removed."""
    wanted = {
        "archive": asdict(profile.archive),
        "curation": asdict(profile.curation),
        "lesions": {name: value for name, value in asdict(profile.lesions).items() if name in
                    ("patients", "series_per_study", "lesion_share", "least_pixels")},
        "seed": profile.seed,
        "code": code_digest(),
    }  # fmt: skip
    wanted = json.loads(json.dumps(wanted))  # as it will be read
    record = work / "plan.json"
    if record.exists() and json.loads(record.read_text()) == wanted:
        return
    for old in work.glob("*.npz"):
        old.unlink()
    for unfinished in work.glob(".writing-*"):
        shutil.rmtree(unfinished)
    write_json(record, wanted)

"""The memorisation audit: do generated images lie nearer to training frames than frames of patients whom the model never saw?

Looked up are every generated image and every held-out real frame of the four conditions, in each space of `copy_search`; the tests are those of
`copy_tests`. Held-out frames are of other patients: whether these spaces would also see a training *patient* at a moment that is no training frame, or
copied frames alone, is told by how near frames of one patient lie to each other (`same_patient`). What the audit cannot show: copying that no space
sees (a small region, a mark), and that the images are anonymous in a legal sense.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dsa_lib.audits import copy_tests
from dsa_lib.audits.copy_search import Nearest, Space, embed, search
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.statistics import holm
from dsa_lib.fidelity.image_sets import GENERATED, HELD_OUT, TRAINING, RunImages
from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT


@dataclass(frozen=True)
class Images:
    """Images of the audit: `frames` [N, H, W] uint8, of which the `rows` [n] belong to the set, the cell of each [n], its patient [n] where real.

    `vectors` [n, d]: features computed before, for a `copy_search.feature_space`.
    """

    frames: np.ndarray
    rows: np.ndarray
    cells: np.ndarray
    patients: np.ndarray | None = None
    vectors: np.ndarray | None = None

    def source(self, space: Space) -> tuple[np.ndarray, np.ndarray]:
        """What `space` reads, and the rows of it: frames, or the vectors where they were computed before. Raises StudyError where it has none."""
        if space.embed is not None:
            return self.frames, np.asarray(self.rows)
        if self.vectors is None or len(self.vectors) != len(self.rows):
            raise StudyError(f"{space.name}: give the vectors of the {len(self.rows)} images, or leave this space out")
        return self.vectors, np.arange(len(self.rows))

    def at(self, positions: np.ndarray) -> "Images":
        """Those at `positions` alone."""
        return Images(
            self.frames,
            np.asarray(self.rows)[positions],
            np.asarray(self.cells)[positions],
            None if self.patients is None else np.asarray(self.patients)[positions],
            None if self.vectors is None else self.vectors[positions],
        )

    def canonical(self) -> "Images":
        """Those of the four canonical conditions alone."""
        return self.at(np.flatnonzero(np.isin(self.cells, CELLS)))


def sets_of_run(study: Study, images: RunImages) -> dict[str, Images]:
    """GENERATED images, HELD_OUT frames and TRAINING frames of a run, with the features that notebook 07 kept of them."""
    vectors = {name: np.load(study.read(f"features/{name}.npy")) for name in (GENERATED, HELD_OUT, TRAINING)}
    places = np.arange(len(images.generated))
    sets = {GENERATED: Images(images.generated, places, images.asked["cell"].to_numpy(), None, vectors[GENERATED])}
    for name, rows in ((HELD_OUT, images.held_out), (TRAINING, images.rows["train"])):
        columns = (rows[column].to_numpy() for column in ("frame_id", "cell", "patient"))
        sets[name] = Images(images.frames, *columns, vectors[name])
    return sets


@dataclass(frozen=True)
class Lookup:
    """What the search in one space found: nearest training frames of the `generated` and `held_out` images, and of some training frames without
    their own patient (`others`).

    `neighbour`, `neighbour_other`: of every generated image's nearest training frame the distance to the nearest other training frame, of any
    patient and of another one. `same_patient`: of the training frames of `others` the distance to the nearest other frame of their own patient.
    """

    generated: Nearest
    held_out: Nearest
    others: Nearest
    others_patients: np.ndarray
    neighbour: np.ndarray
    neighbour_other: np.ndarray
    same_patient: np.ndarray


@dataclass(frozen=True)
class Audit:
    """`table`: one row a space (`memorisation.csv`); `pairs`: the closest pairs (`memorisation_pairs.csv`); `lookups` by space; the `level`."""

    table: pd.DataFrame
    pairs: pd.DataFrame
    lookups: Mapping[str, Lookup]
    level: float

    @property
    def flagged(self) -> bool:
        """Whether any space is flagged at the overall level."""
        return bool(self.table["flagged"].any())

    def distances(self) -> dict[str, dict[str, np.ndarray]]:
        """Distances to the nearest training frame by space, for the figure: generated, held-out, and frames of the same patient."""
        return {
            name: {
                GENERATED: found.generated.at_best("distance"),
                HELD_OUT: found.held_out.at_best("distance"),
                "same patient": found.same_patient,
            }
            for name, found in self.lookups.items()
        }

    def shown(self, space: str, sets: Mapping[str, "Images"], training: "Images") -> dict[str, list]:
        """The frames of the closest pairs in `space`: set → (image, training frame), nearest first. `sets`: set → its images, as they were given."""
        pairs = self.pairs[self.pairs["space"] == space].sort_values("rank")
        found = {}
        for name, images in sets.items():
            images = images.canonical()
            found[name] = [
                (images.frames[images.rows[pair.image]], training.frames[training.rows[pair.training]])
                for pair in pairs[pairs["set"] == name].itertuples()
            ]
        return found


def cannot_audit(training_patients: np.ndarray) -> str | None:
    """Why an archive is too small for the audit; None where it is not."""
    if (count := len(np.unique(training_patients))) < 2:
        return f"the training frames are of {count} patient, and how near is near shows only beside a second one"
    return None


def check(generated: Images, held_out: Images, training: Images) -> None:
    """Before the long part: training frames and images to look up, all of one size; StudyError otherwise."""
    for what, images in (("training frames", training), ("generated images", generated), ("held-out frames", held_out)):
        if len(images.rows) == 0:
            raise StudyError(
                f"the audit of memorisation has no {what} in the four canonical conditions: use a larger archive or profile"
            )
    sizes = {images.frames.shape[1:] for images in (generated, held_out, training)}
    if len(sizes) > 1:
        told = ", ".join(sorted(f"{width} × {height}" for height, width in sizes))
        raise StudyError(
            f"frames of different sizes cannot be compared ({told}): generate at the size of the archive's frames"
        )
    if training.patients is None or held_out.patients is None:
        raise StudyError(
            "the audit needs the patient of every training and held-out frame: give the columns of arterial.parquet"
        )
    if why := cannot_audit(training.patients):
        raise StudyError(f"the audit of memorisation cannot be made: {why}; use a larger archive")
    if shared := set(training.patients) & set(held_out.patients):
        raise StudyError(
            f"{len(shared)} patients have training and held-out frames: run notebooks/01_curation.ipynb again"
        )


def look_up(
    space: Space, generated: Images, held_out: Images, training: Images, leave_one_out: int, seed: int
) -> Lookup:
    """Everything the audit needs of one space. `leave_one_out`: how many training frames (canonical, equally many a patient) are looked up too."""
    source, rows = training.source(space)
    patients = np.asarray(training.patients)
    chosen = _spread(training, leave_one_out, seed)
    vectors = [
        embed(space, *generated.source(space), "generated images"),
        embed(space, *held_out.source(space), "held-out frames"),
        embed(space, source, rows[chosen], "training frames"),
    ]
    sizes = [part.shape[1] for part in vectors]
    itself = np.concatenate([np.full(sizes[0] + sizes[1], -1), rows[chosen]])
    found = search(space, np.concatenate(vectors, axis=1), source, rows, patients, itself)
    made, real, own = (
        found.at(slice(start, start + size)) for start, size in zip(np.cumsum([0, *sizes[:2]]), sizes, strict=True)
    )
    # AuthPct asks how far the nearest training frames themselves lie from others.
    nearest, back = np.unique(made.at_best("position"), return_inverse=True)
    around = search(
        space, embed(space, source, rows[nearest], "training frames"), source, rows, patients, rows[nearest]
    )
    return Lookup(
        made,
        real,
        own.without(patients[chosen]),
        patients[chosen],
        around.at_best("distance")[back],
        around.without(patients[nearest]).at_best("distance")[back],
        own.distance[np.arange(len(chosen)), np.searchsorted(own.patients, patients[chosen])],
    )


def _spread(training: Images, count: int, seed: int) -> np.ndarray:
    """Positions of up to `count` canonical training frames, patient after patient in turn."""
    rng = np.random.default_rng([seed, 61])
    canonical = np.flatnonzero(np.isin(training.cells, CELLS))
    table = pd.DataFrame({"position": rng.permutation(canonical if len(canonical) else np.arange(len(training.rows)))})
    table["patient"] = np.asarray(training.patients)[table["position"]]
    table["turn"] = table.groupby("patient").cumcount()
    return np.sort(table.sort_values("turn", kind="stable")["position"].to_numpy()[:count])


def audit(spaces: Sequence[Space], generated: Images, held_out: Images, training: Images, settings, seed: int) -> Audit:
    """The audit of `generated` images: search, tests and verdict in every one of `spaces`.

    Generated images and held-out frames enter with their canonical conditions alone, training frames all. `settings` is the profile's `privacy`
    section. Raises StudyError, before the search, on what cannot be compared (`check`).
    """
    generated, held_out = generated.canonical(), held_out.canonical()
    check(generated, held_out, training)
    for space in spaces:
        for images in (generated, held_out, training):
            images.source(space)
    lookups = {
        space.name: look_up(space, generated, held_out, training, settings.leave_one_out, seed) for space in spaces
    }
    rows = [{"space": name, **measures(found, generated, held_out)} for name, found in lookups.items()]
    table = judged(pd.DataFrame(rows), settings.level)
    table["training_images"], table["training_patients"] = len(training.rows), len(set(training.patients))
    pairs = [
        closest_pairs(name, kind, near, settings.gallery)
        for name, found in lookups.items()
        for kind, near in ((GENERATED, found.generated), (HELD_OUT, found.held_out))
    ]
    return Audit(table, pd.concat(pairs, ignore_index=True), lookups, settings.level)


def measures(found: Lookup, generated: Images, held_out: Images) -> dict[str, float]:
    """One row of `memorisation.csv`: distances, AuthPct, C_T and the two tests of one space."""
    made, real = (near.at_best("distance") for near in (found.generated, found.held_out))
    return {
        "generated_images": len(made),
        "held_out_images": len(real),
        "held_out_patients": len(set(held_out.patients)),
        "median_generated": float(np.median(made)),
        "median_held_out": float(np.median(real)),
        "median_same_patient": float(np.median(found.same_patient)),
        "median_other_patients": float(np.median(found.others.at_best("distance"))),
        "mirrored_generated": float(found.generated.at_best("mirrored").mean()),
        "auth_pct": copy_tests.auth_pct(made, found.neighbour),
        "auth_pct_other_patients": copy_tests.auth_pct(made, found.neighbour_other),
        "c_t": copy_tests.c_t(made, real, generated.cells, held_out.cells),
        **tests(found, held_out, found.generated, generated.cells, generated.patients),
    }


def tests(
    found: Lookup, held_out: Images, near: Nearest, cells: np.ndarray, patients: np.ndarray | None = None
) -> dict[str, float]:
    """The two tests of one space for images whose nearest training frames are `near`, of the conditions `cells` [n].

    `near_copies` counts images whose relative distance (`Nearest.relative`) is below the smallest of all real frames that were looked up among other
    patients: the held-out ones, and the training frames without their own patient. `patients`: see `copy_tests.nearer_test`.
    """
    made, real = (each.at_best("distance") for each in (near, found.held_out))
    nearer = copy_tests.nearer_test(made, real, cells, held_out.cells, held_out.patients, patients)
    reference = np.concatenate([found.held_out.relative(), found.others.relative()])
    whose = np.concatenate([held_out.patients, found.others_patients])
    copies, p_copies, limit = copy_tests.exceedance_test(near.relative(), reference, whose, patients)
    return {
        "held_out_worth": nearer.worth,
        "farther": nearer.farther,
        "p_nearer": nearer.p,
        "near_limit": limit,
        "near_copies": copies,
        "p_near_copies": p_copies,
    }


def judged(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """`table` with `p` (a space's two tests, Bonferroni), `p_adjusted` (Holm over the spaces) and `flagged` (p_adjusted below `level`).

    Under its null hypothesis, no image nearer than unseen patients' frames are, an honest model is flagged in any space with a probability of `level` at most.
    Tests that could not be made (NaN) are left out; a space without any is not flagged.
    """
    tests = table[["p_nearer", "p_near_copies"]]
    table = table.assign(p=(tests.min(axis=1) * tests.notna().sum(axis=1)).clip(upper=1.0))
    adjusted = holm(table["p"])
    return table.assign(p_adjusted=adjusted, flagged=adjusted < level)


def closest_pairs(space: str, kind: str, near: Nearest, count: int) -> pd.DataFrame:
    """The `count` images nearest to a training frame, relative to the second nearest patient, nearest first; a training frame appears once.

    Columns space, set, rank (from 1), image and training (positions in their sets), distance, relative, mirrored.
    """
    table = pd.DataFrame(
        {
            "space": space,
            "set": kind,
            "image": np.arange(len(near.distance)),
            "training": near.at_best("position"),
            "distance": near.at_best("distance"),
            "relative": near.relative(),
            "mirrored": near.at_best("mirrored"),
        }
    )
    table = table.sort_values(["relative", "distance"], kind="stable").drop_duplicates("training").head(count)
    table.insert(2, "rank", np.arange(1, len(table) + 1))
    return table.reset_index(drop=True)


def statement(found: Audit) -> str:
    """The verdict in one sentence, with its limits."""
    table = found.table
    tested = table[table["p_adjusted"].notna()]
    if tested.empty:
        return (
            f"Not judged: held-out frames of {int(table['held_out_patients'].min())} patients are too few for a test "
            f"(at least {copy_tests.LEAST_PATIENTS}); the distances are shown without a verdict."
        )
    limits = (
        f"The test compares with {int(tested['held_out_patients'].iloc[0])} held-out patients; it can miss a small share of copies and what no space shows, "
        "and it does not show that the images are anonymous."
    )
    names = ", ".join(f"{row.space} (p = {row.p_adjusted:.2g})" for row in tested[tested["flagged"]].itertuples())
    if names:
        return (
            f"Flagged: generated images lie nearer to training frames than frames of unseen patients do, in {names}, "
            f"after Holm's correction over {len(tested)} spaces. {limits}"
        )
    return (
        f"Not flagged: in none of {len(tested)} spaces do generated images lie nearer to training frames than frames of unseen patients do "
        f"(smallest p = {tested['p_adjusted'].min():.2g} after Holm's correction, level {found.level:.0%}). {limits}"
    )


def false_alarms() -> pd.DataFrame:
    """How often the audit flagged what does not copy, measured on phantom archives (benchmarks/memorisation.json) and not on this one.

    A row a source of images; columns audits, flagged, and the 95 % interval of the rate, low and high.
    """
    found = json.loads((PROJECT / "benchmarks" / "memorisation.json").read_text())["false alarms"]
    rows = {}
    for name, part in found.items():
        of = part["flagged"]
        rows[name] = (of["of"], round(of["rate"] * of["of"]), *of["interval"])
    return pd.DataFrame.from_dict(rows, orient="index", columns=["audits", "flagged", "low", "high"])


def scope(study: Study) -> str:
    """Whose training frames the audit of this run does not cover, in one sentence; empty where it covers all."""
    facts = (study.ws.manifest("04_ldm") or {}).get("facts", {})
    if (facts.get("started_from") or "nothing") == "nothing":
        return ""
    return (
        f"The model went on from weights that were trained on frames of {len(shipped.card()['patients']['train'])} other phantom patients (models/phantom); "
        "the audit covers the training frames of this run alone, and says nothing of those."
    )

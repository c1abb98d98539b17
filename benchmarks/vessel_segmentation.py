"""Which segmenter finds the arteries of a phantom frame best; and the training of the network that ships (models/vessels).

    python benchmarks/vessel_segmentation.py train      # trains the network and writes models/vessels; the same command continues
    python benchmarks/vessel_segmentation.py compare    # writes benchmarks/vessel_segmentation.json

Everything is simulated anatomy. Two phantom archives of their own: TRAINING trains the network and tunes Frangi's filter (its last patients choose the
network's weights), JUDGED is what all are judged on. No patient is in both, nor in the archive of `make reproduce` or that of models/phantom.

The truth of a frame is `phantom.truth.filled_arteries`: what holds contrast at that moment, known from the bolus and not from grey values, so that it
favours no segmenter. Judged are

- classical: `dsa_lib.vessels.filters` as it is; its numbers were set on phantom patients of another archive, for visible depth rather than for this truth;
- frangi: Frangi et al. 1998 at several scales with hysteresis, scales, β, γ, thresholds, smallest piece and calibre thresholds by the highest
  Dice on TRAINING frames; calibre by relative depth as in `dsa_lib.vessels.filters`;
- network: `dsa_lib.vessels.unet`;

on acquired frames of JUDGED patients and on their reconstructions by the autoencoder of models/phantom, which has seen none of these patients: what generated
frames have in common with decoded ones must not blind the segmenter. Dice and clDice pooled over frames, 95 % bootstrap intervals over patients.
"""

import argparse
import hashlib
import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.filters import apply_hysteresis_threshold, frangi
from skimage.morphology import remove_small_objects, skeletonize

from dsa_lib.ldm import autoencoder
from dsa_lib.nn import shipped
from dsa_lib.phantom import truth
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.profiles import PHANTOM, Archive
from dsa_lib.run.progress import track
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import Workspace, atomic_write, write_json
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import overlap
from dsa_lib.vessels import unet as vessel_unet

TRAINING = Archive(patients=72, series_per_study=3, matrix=144, frames=14, frame_time_ms=500.0), 20261127
JUDGED = Archive(patients=24, series_per_study=4, matrix=144, frames=14, frame_time_ms=500.0), 20261128
VALIDATION_PATIENTS = 8  # of TRAINING
ARTERIAL_FRAMES = 3  # of a series
LATER_FRAMES = 1  # of a training series: they teach that blush and veins are no arteries. None is judged, since notebook 12 sees arterial frames
TUNING_FRAMES = 48
# What Frangi's filter is tuned over. β and γ as in skimage: γ None is half of the largest Hessian norm of the frame.
SIGMAS = ((1.0,), (1.0, 2.0), (0.7, 1.4, 2.8), (1.0, 1.5, 2.0, 3.0))
BETAS, GAMMAS = (0.5, 1.0), (None, 5.0, 15.0)
LOW_SHARES, SMALLEST = (0.3, 0.6, 1.0), (1, 7, 15)
THRESHOLDS = 12  # of each filtered set, from its 85th to its 99.5th percentile
OUT = Path(__file__).with_suffix(".json")


# ---- frames with their truth -----------------------------------------------------------------------------------------


def pairs(archive: tuple[Archive, int], later: int, path: Path) -> dict[str, np.ndarray]:
    """frames, classes (uint8 [n, H, W]) and patient [n] of the kept series of a phantom archive; rendered once and kept at `path`."""
    if not path.exists():
        config, seed = archive
        plan = plan_archive(config, seed)
        kept = plan[plan["kind"] == "kept"]
        frames, classes, patients = [], [], []
        runs = truth.labelled_runs(kept, config, seed, PHANTOM.curation)
        for series in itertools.chain.from_iterable(track(runs, kept["run"].nunique(), "runs rendered")):
            arterial = np.flatnonzero((series.phase == "arterial") & series.classes.any(axis=(1, 2)))
            after = np.flatnonzero(np.isin(series.phase, ["capillary", "venous"]))
            chosen = np.concatenate([spread(arterial, ARTERIAL_FRAMES), spread(after, later)]).astype(int)
            frames.append(series.frames[chosen])
            classes.append(series.classes[chosen])
            patients += [series.patient_id] * len(chosen)
        with atomic_write(path) as temporary:
            np.savez_compressed(
                temporary, frames=np.concatenate(frames), classes=np.concatenate(classes), patient=np.array(patients)
            )
    with np.load(path) as stored:
        return dict(stored)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `values`, evenly spread."""
    if not len(values) or not count:
        return values[:0]
    return values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]


# ---- the network -----------------------------------------------------------------------------------------------------


def train(ws: Workspace) -> None:
    settings = PHANTOM.plausibility
    data = pairs(TRAINING, LATER_FRAMES, ws.path("training.npz"))
    names = np.unique(data["patient"])
    validation = np.isin(data["patient"], names[-VALIDATION_PATIENTS:])
    numbers = {name: value for name, value in asdict(settings).items() if name.startswith("network_")}
    augmentation = {name: getattr(vessel_unet, name) for name in vessel_unet.AUGMENTATION}
    digest = hashlib.sha256(json.dumps([str(TRAINING), numbers, augmentation], default=str).encode()).hexdigest()
    model, history = vessel_unet.train(
        data["frames"][~validation],
        data["classes"][~validation],
        settings,
        seed=PHANTOM.seed,
        folder=ws.checkpoints("vessels"),
        digest=digest,
        validation=(data["frames"][validation], data["classes"][validation]),
        precision=PHANTOM.precision,
    )
    facts = {
        "what": "U-Net of arterial calibre classes (0 none, 1 proximal, 2 medium, 3 peripheral), trained on simulated "
        "angiograms only; not for clinical use",
        "size": settings.network_size,
        "settings": numbers,
        "archive": asdict(TRAINING[0]) | {"seed": TRAINING[1]},
        "training_frames": int((~validation).sum()),
        "validation_frames": int(validation.sum()),
        "validation_loss": history["val_loss"].dropna().round(4).tolist(),
        "patients": names.tolist(),
        "environment": environment(),
    }
    card = vessel_unet.save(model, vessel_unet.FOLDER, facts)
    print(f"models/vessels: {card['parameters']:,} parameters, validation loss {card['validation_loss']}")


# ---- Frangi's filter -------------------------------------------------------------------------------------------------


def filtered(frames: np.ndarray, sigmas, beta: float, gamma: float | None) -> np.ndarray:
    """Vesselness [n, h, w] (Frangi et al. 1998) of dark lines."""
    options = {"sigmas": sigmas, "beta": beta, "gamma": gamma, "black_ridges": True, "mode": "nearest"}
    return np.stack([frangi(frame.astype(float), **options) for frame in frames]).astype(np.float32)


def cut(vesselness: np.ndarray, low: float, high: float, smallest: int) -> np.ndarray:
    """Vessel pixels bool [n, h, w] by hysteresis, without pieces of fewer than `smallest` pixels."""
    found = [apply_hysteresis_threshold(frame, low, high) for frame in vesselness]
    return np.stack([remove_small_objects(frame, max_size=smallest - 1, connectivity=2) for frame in found])


def relative_depths(found: np.ndarray, frames: np.ndarray) -> np.ndarray:
    wide = vessel_filters.window(vessel_filters.WIDE, frames.shape[-1])
    return np.stack(
        [
            vessel_filters.relative_depth(v, skeletonize(v), vessel_filters.depth(f, wide))
            for v, f in zip(found, frames, strict=True)
        ]
    )


def by_depth(found: np.ndarray, relative: np.ndarray, medium: float, proximal: float) -> np.ndarray:
    """Class maps uint8 of vessel pixels by relative depth, as in `dsa_lib.vessels.filters`."""
    classes = np.where(relative >= proximal, 1, np.where(relative >= medium, 2, 3))
    return np.where(found, classes, 0).astype(np.uint8)


def tune_frangi(frames: np.ndarray, true: np.ndarray) -> dict[str, object]:
    """The values of highest Dice (vessel against background, then mean over classes) on frames [n, h, w] with class maps `true`."""
    inside = true > 0

    def dice(found: np.ndarray, of: np.ndarray) -> float:
        return 2 * (found & of).sum() / max(found.sum() + of.sum(), 1)

    best: dict[str, object] = {"dice": -1.0}
    for sigmas, beta, gamma in track(
        list(itertools.product(SIGMAS, BETAS, GAMMAS)), what="settings of Frangi's filter"
    ):
        vesselness = filtered(frames, sigmas, beta, gamma)
        highs = np.unique(np.percentile(vesselness, np.linspace(85, 99.5, THRESHOLDS)))
        rough = max(highs, key=lambda high: dice(vesselness >= high, inside))
        near = [high for high in (0.7 * rough, rough, 1.4 * rough, 2 * rough) if high > 0]
        for high, share, smallest in itertools.product(near, LOW_SHARES, SMALLEST):
            found = dice(cut(vesselness, share * high, high, smallest), inside)
            if found > best["dice"]:
                best = {"dice": found, "sigmas": sigmas, "beta": beta, "gamma": gamma}
                best |= {"low": float(share * high), "high": float(high), "smallest": smallest}
    found = cut(
        filtered(frames, best["sigmas"], best["beta"], best["gamma"]), best["low"], best["high"], best["smallest"]
    )
    relative = relative_depths(found, frames)
    grid = itertools.product(np.linspace(0.05, 0.35, 7), np.linspace(0.3, 0.7, 9))
    best["medium"], best["proximal"] = max(
        grid, key=lambda cuts: np.mean([dice(by_depth(found, relative, *cuts) == k, true == k) for k in (1, 2, 3)])
    )
    return best


# ---- the comparison --------------------------------------------------------------------------------------------------


def compare(ws: Workspace) -> None:
    training, judged = pairs(TRAINING, LATER_FRAMES, ws.path("training.npz")), pairs(JUDGED, 0, ws.path("judged.npz"))
    shipped.check_unseen(np.unique(judged["patient"]))
    model, card = vessel_unet.load()
    vessel_unet.check_unseen(np.unique(judged["patient"]), card)
    seen = np.sort(np.random.default_rng(PHANTOM.seed).permutation(len(training["frames"]))[:TUNING_FRAMES])
    tuned = tune_frangi(training["frames"][seen], training["classes"][seen])

    def by_frangi(frames: np.ndarray) -> np.ndarray:
        found = cut(filtered(frames, tuned["sigmas"], tuned["beta"], tuned["gamma"]), tuned["low"], tuned["high"], tuned["smallest"])  # fmt: skip
        return by_depth(found, relative_depths(found, frames), tuned["medium"], tuned["proximal"])

    segmenters = {
        "classical": lambda frames: np.stack([vessel_filters.calibres(frame) for frame in frames]),
        "frangi": by_frangi,
        "network": lambda frames: vessel_unet.segment(model, frames, card["size"]),
    }
    vae = autoencoder.AutoencoderKL.from_pretrained(shipped.FOLDER / "vae").float().eval()
    shown = {"acquired": judged["frames"], "decoded": autoencoder.reconstruct(vae, judged["frames"])}
    counted, tables, seconds = {}, {}, {}
    for (kind, frames), (name, segment) in itertools.product(shown.items(), segmenters.items()):
        started = time.process_time()
        found = segment(frames)
        seconds[name] = (time.process_time() - started) / len(frames)
        counted[kind, name] = overlap.counts(found, judged["classes"])
        table = overlap.summary(counted[kind, name], judged["patient"])
        tables.setdefault(kind, {})[name] = table.round(4).to_dict("index")
        print(f"{kind}, {name}\n{table.round(3)}", flush=True)
    better = paired(counted["acquired", "network"], counted["acquired", "classical"], judged["patient"])
    report = {
        "what": "segmenters against phantom truth on held-out phantom patients (simulated anatomy); see the head of benchmarks/vessel_segmentation.py",
        "judged": {"patients": len(np.unique(judged["patient"])), "frames": len(judged["frames"])},
        "scores": tables,
        "network less classical, acquired, paired over patients": better.round(4).to_dict("index"),
        "processor time a frame, as a multiple of classical": {
            name: round(value / seconds["classical"], 2) for name, value in seconds.items()
        },
        "frangi": {name: value for name, value in tuned.items() if name != "dice"},
        "network": card["sha256"][:16],
        "environment": environment(),
    }
    write_json(OUT, report)


def paired(a: np.ndarray, b: np.ndarray, patients: np.ndarray, draws: int = 2000) -> pd.DataFrame:
    """Difference of the scores of `overlap.counts` a and b of the same frames, with its 95 % interval over the same draws of patients."""
    names, group = np.unique(patients, return_inverse=True)
    sums = np.zeros((2, len(names), *a.shape[1:]))
    for index, one in enumerate((a, b)):
        np.add.at(sums[index], group, one)
    weight = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    drawn = overlap.ratio(np.einsum("dp,mpsk->mdsk", weight, sums))
    low, high = overlap.interval(drawn[0] - drawn[1])
    whole = overlap.ratio(sums.sum(axis=1))
    return pd.DataFrame({"difference": whole[0] - whole[1], "low": low, "high": high}, index=overlap.SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "compare"))
    request = parser.parse_args()
    {"train": train, "compare": compare}[request.what](Workspace("vessel_segmentation"))


if __name__ == "__main__":
    main()

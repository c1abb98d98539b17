"""Which sampler, and how many steps, for the map-conditioned diffusion of profile `phantom` (notebook 21).

    python benchmarks/anatomy_sampling.py               # writes benchmarks/anatomy_sampling.json

The weights of models/anatomy on the patients that chose them (the validation part of the archive that they were trained on, simulated anatomy): no patient on
whom notebook 21 reports is looked at. Every sampler makes the same images anew from the same maps and seeds, and is scored as there, but by the phase
network's features, since that archive has no network of notebook 07.
"""

import json
from pathlib import Path

import anatomy as training
import numpy as np
import pandas as pd

from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import features
from dsa_lib.ldm import autoencoder, diffusion, text
from dsa_lib.maps import map_diffusion, map_scores, map_weights
from dsa_lib.maps import models as map_models
from dsa_lib.nn import shipped
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import Workspace, write_json

OUT = Path(__file__).with_suffix(".json")
SAMPLERS = (("ddim", 10), ("ddim", 20), ("ddim", 50), ("dpmsolver++", 20))
IMAGES = 80


def main() -> None:
    overrides = json.loads(training.VALUES.read_text())
    profile = load_profile("phantom", overrides)
    training.archive(overrides)  # made where it has not been
    given = training.material(Workspace(training.RUN), profile)
    rows = given.data.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), IMAGES)).astype(int)]
    true, patients = given.data.frames[rows], given.data.patients[rows]
    extractor = features.open_extractor(
        "phase-network",
        classifier=shipped.FOLDER / "classifier",
        size=profile.classifier.input_size,
        batch_size=profile.fidelity.batch_size,
        training_frames=given.data.frames[given.data.rows("train")[:2048]],
        network=None,
        weights_sha256=profile.fidelity.weights_sha256,
    )
    moments, schedule = fidelity_distances.statistics(extractor(true)), diffusion.noise_schedule(profile.diffusion)

    def scored(half: str, sampler: str, steps: int, made: np.ndarray) -> dict:
        of_images = map_scores.of_images(true, {(half, sampler): made}, patients)
        distance = fidelity_distances.frechet_distance(moments, fidelity_distances.statistics(extractor(made)))
        row = {"half": half, "sampler": sampler, "steps": steps, extractor.distance: distance}
        return row | {"ssim": of_images["ssim"].mean(), "nmse": of_images["nmse"].mean()}

    found = [scored("", "none: autoencoder alone", 0, autoencoder.reconstruct(given.vae, true))]
    for half in (map_models.WITH, map_models.WITHOUT):
        model, _ = map_diffusion.load(map_weights.FOLDER / map_models.name_of("LDM", half))
        maps, told, seeds = given.maps(half)[rows], [text.EMPTY] * len(rows), [int(row) for row in rows]
        for sampler, steps in SAMPLERS:
            made = map_diffusion.generate(
                model, given.vae, maps, told, seeds, steps, schedule, sampler, what=f"images, {half}, {sampler} {steps}"
            )
            found.append(scored(half, sampler, steps, made))
    table = pd.DataFrame(found)
    print(table.round(4).to_string(index=False))
    facts = {"what": __doc__.split("\n")[0], "images": len(rows), "patients": len(np.unique(patients))}
    facts |= {"features": extractor.distance, "weights": map_weights.card()["stages"]}
    write_json(
        OUT, facts | {"rows": json.loads(table.round(6).to_json(orient="records")), "environment": environment()}
    )


if __name__ == "__main__":
    main()

"""Train the judge of lesions that ships (models/lesion_judge), and measure it on phantom patients that it has not seen.

    python benchmarks/lesion_judge.py --work FOLDER     # the same command goes on after a kill

Renders phantom patients of a seed of its own, so that none of them is in the lesion pairs of a run with the default seed, trains on two thirds of them and
chooses the weights on a part of the rest; what remains measures it, on frames as acquired and after a pass through the autoencoder of models/phantom, which
costs what decoding alone costs. Writes models/lesion_judge and benchmarks/lesion_judge.json.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.ldm import autoencoder
from dsa_lib.lesions import judge as lesion_judge
from dsa_lib.lesions import lesion_requests as lesion_sentences
from dsa_lib.nn import shipped
from dsa_lib.phantom import lesion_archive
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.progress import track
from dsa_lib.run.session import environment, processor
from dsa_lib.run.workspace import write_json

SEED, PATIENTS = 4242, 400
OUT = Path(__file__).with_suffix(".json")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--work", type=Path, required=True, help="folder for what is unfinished")
    work = options.parse_args().work
    profile = load_profile("phantom", {"seed": SEED, "lesions.patients": PATIENTS})
    pairs, _ = lesion_archive.pairs(
        profile, work / "pairs", progress=lambda items, n: track(items, n, "series rendered")
    )
    settings, started = profile.lesion_sentences, time.time()
    model, log = lesion_judge.train(
        pairs,
        settings,
        seed=SEED,
        folder=work / "judge",
        digest=profile.digest("lesion_sentences", "lesions"),
        live=False,
    )
    seconds = time.time() - started
    seen = np.isin(pairs.part, ["train", "val"])
    facts = {
        "what": "U-Net that names the lesion of a simulated angiogram (none, aneurysm, stenosis, occlusion, AVM); not for clinical use",
        "size": settings.judge_size,
        "channels": list(settings.judge_channels),
        "patients": sorted({str(name) for name in pairs.patients[seen]}),
        "frames": {name: len(pairs.rows(name)) for name in ("train", "val")},
        "settings": {"seed": SEED, "steps": settings.judge_steps, "batch": settings.judge_batch},
        "environment": environment(),
    }
    lesion_judge.save(model, lesion_judge.FOLDER, facts)
    model, _ = lesion_judge.load()
    test = pairs.rows("test")
    vae = autoencoder.AutoencoderKL.from_pretrained(shipped.FOLDER / "vae")
    frames = {"as acquired": pairs.targets[test], "decoded": autoencoder.reconstruct(vae, pairs.targets[test])}
    asked = np.array(lesion_judge.KINDS)[lesion_judge.labels(pairs.kinds[test])]
    named = {name: lesion_judge.answers(model, some, settings.judge_size) for name, some in frames.items()}
    table = lesion_sentences.rates({name: (asked, found.argmax(1)) for name, found in named.items()})
    print(table.round(3).to_string(index=False))
    write_json(
        OUT,
        {
            "rates": table.round(4).to_dict("records"),
            "confusion": {name: lesion_sentences.confusion(asked, found.argmax(1)).to_dict("index") for name, found in named.items()},
            "test_patients": int(pd.Series(pairs.patients[test]).nunique()),
            "training": log[["step", "train_loss", "val_loss", "val_named right"]].round(4).to_dict("records"),
            "seconds": round(seconds),
            "processor": processor(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

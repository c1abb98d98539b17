"""Bootstrap of Table 4: all 16 coefficients of this library against looping pingouin, on the same ratings in the same run.

python benchmarks/icc.py      # on one core; prints the ratio and writes benchmarks/icc.json

The 16 coefficients are ICC(2,1) and ICC(2,k) of four regions, for all raters and for domain experts. Ours is what notebook 06
calls, opening of the table included. pingouin's is timed for some resamples of every cell and told per resample, since 10,000
would take long; each of its calls gives both coefficients, so that nothing is counted twice. The machine may be busy: wall
time is told with the computing time, which the ratio goes by.
"""

import json
import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # one core, before numpy starts

import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pingouin

from dsa_lib.readers import rater_model
from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.rating_files import CIRCULATION_SHORT
from dsa_lib.readers.reliability import complete_cases
from dsa_lib.run.session import processor

GENERATED, RESAMPLES, LOOPS = 400, 10_000, 20  # the study's size (§2.3); resamples a cell; pingouin's a cell


def simulated_study() -> reader_tables.ReaderStudy:
    """400 images of four conditions, screened and rated by the model of readers."""
    cells = [("anterior", "A"), ("posterior", "A"), ("anterior", "B"), ("posterior", "B")]
    manifest = pd.DataFrame(
        [(f"img{i:05d}", *cells[i % 4]) for i in range(GENERATED)], columns=["image_id", "circulation", "plane"]
    )
    screening, ratings = rater_model.simulate(manifest, seed=0)
    screening["cell"] = screening["circulation"].map(CIRCULATION_SHORT) + " " + screening["plane"]
    ratings["cell"] = ratings["image_id"].map(screening.set_index("image_id")["cell"])
    return reader_tables.ReaderStudy(screening, ratings)


def timed(work) -> tuple[object, float, float]:
    """Result, wall seconds and computing seconds of `work()`."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def loop_pingouin(matrices: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for ratings in matrices:
        for _ in range(LOOPS):
            drawn = pd.DataFrame(ratings[rng.integers(0, len(ratings), len(ratings))]).rename_axis("image")
            long = drawn.reset_index().melt("image", var_name="rater", value_name="rating")
            pingouin.intraclass_corr(long, targets="image", raters="rater", ratings="rating")


def main() -> None:
    study = simulated_study()
    load = os.getloadavg()[0]
    results, wall, cpu = timed(lambda: reader_tables.reliability(study, RESAMPLES, seed=0))
    _, mixed_wall, mixed_cpu = timed(lambda: reader_tables.mixed_reliability(study, 1000, seed=0))
    matrices = [
        complete_cases(reader_tables.rating_matrix(study, region, raters).to_numpy())
        for region in reader_tables.REGIONS
        for raters in reader_tables.rater_sets(study).values()
    ]
    _, theirs_wall, theirs_cpu = timed(lambda: loop_pingouin(matrices))
    theirs = {"wall_s": theirs_wall / LOOPS * RESAMPLES, "cpu_s": theirs_cpu / LOOPS * RESAMPLES}
    result = {
        "what": f"{RESAMPLES} resamples of images for ICC(2,1) and ICC(2,k) of 4 regions x 2 sets of raters, one core",
        "images": sorted({r.n_images for r in results.values()}),
        "dsa_lib": {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)},
        "pingouin, from its first resamples": {name: round(value, 1) for name, value in theirs.items()},
        "pingouin_resamples_timed": LOOPS * len(matrices),
        "ratio_by_computing_time": round(theirs["cpu_s"] / cpu),
        "ratio_by_wall_time": round(theirs["wall_s"] / wall),
        "mixed model, 1000 resamples of the same cells": {"wall_s": round(mixed_wall, 1), "cpu_s": round(mixed_cpu, 1)},
        "machine": f"{platform.machine()} {processor()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "python": platform.python_version(),
        "versions": {"numpy": np.__version__, "pingouin": pingouin.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"16 coefficients, {RESAMPLES} resamples: dsa_lib {wall:.2f} s ({cpu:.2f} s computing), pingouin would take "
        f"{theirs['wall_s']:.0f} s ({theirs['cpu_s']:.0f} s): ratio {result['ratio_by_computing_time']}"
    )


if __name__ == "__main__":
    main()

"""Bootstrap of ICC(2,1) and ICC(2,k): this library against looping pingouin, on the same ratings in the same run.

python benchmarks/icc.py      # prints the ratio and writes benchmarks/icc.json
"""

import json
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pingouin

from dsa_lib.reliability import bootstrap

IMAGES, RATERS, RESAMPLES, LOOPS = 217, 4, 10_000, 20  # the study's scored images and raters (§2.4, Table 2)


def main() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(3, 0.7, (IMAGES, 1))
    ratings = np.clip(np.round(quality + rng.normal(0, 0.7, (IMAGES, RATERS))), 1, 5)
    started = time.perf_counter()
    ours, _ = bootstrap(ratings, RESAMPLES, seed=0)
    ours_s = (time.perf_counter() - started) / RESAMPLES
    started = time.perf_counter()
    for _ in range(LOOPS):
        drawn = ratings[rng.integers(0, IMAGES, IMAGES)]
        long = (
            pd.DataFrame(drawn).rename_axis("image").reset_index().melt("image", var_name="rater", value_name="rating")
        )
        pingouin.intraclass_corr(long, targets="image", raters="rater", ratings="rating")
    theirs_s = (time.perf_counter() - started) / LOOPS
    result = {
        "what": f"one resample of {IMAGES} images x {RATERS} raters",
        "dsa_lib_s": ours_s,
        "pingouin_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "median_icc21": float(np.nanmedian(ours)),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, pingouin {pingouin.__version__}",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"pingouin {1e3 * theirs_s:.1f} ms, dsa_lib {1e6 * ours_s:.1f} µs a resample: ratio {result['ratio']:.0f}")


if __name__ == "__main__":
    main()

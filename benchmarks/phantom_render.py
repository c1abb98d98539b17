"""Speed of the phantom: frames rendered a second at 256² on one core, growing the vessel trees included and excluded.

OMP_NUM_THREADS=1 python benchmarks/phantom_render.py      # prints the rates and writes benchmarks/phantom_render.json
"""

import json
import os
import platform
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is loaded: one core

import numpy as np  # noqa: E402

from dsa_lib.phantom.body.head import draw_patient  # noqa: E402
from dsa_lib.phantom.imaging.acquisition import Bodies, acquire  # noqa: E402
from dsa_lib.phantom.plan import plan_archive  # noqa: E402
from dsa_lib.run.profiles import Archive  # noqa: E402

CONFIG = Archive(patients=4, series_per_study=6, matrix=256)
SEED = 1


def main() -> None:
    plan = plan_archive(CONFIG, SEED)
    plan = plan[plan["kind"] == "kept"]
    frames, series, growing_s, rendering_s = 0, 0, 0.0, 0.0
    for patient, rows in plan.groupby("patient"):
        bodies = Bodies(draw_patient(np.random.default_rng([SEED, 7, patient])), SEED, patient)
        for _, run in rows.groupby("run"):
            planes = run.to_dict("records")
            started = time.process_time()
            bodies.of(planes[0])
            grown = time.process_time()
            _, pixels, _ = acquire(planes, CONFIG, SEED, bodies)
            rendering_s += time.process_time() - grown
            growing_s += grown - started
            series += len(pixels)
            frames += sum(len(p) for p in pixels)
    result = {
        "what": f"{series} series of {CONFIG.frames} frames at {CONFIG.matrix}², {plan['patient'].nunique()} patients, processor time of one thread",
        "frames_per_s": frames / (growing_s + rendering_s),
        "frames_per_s_without_growth": frames / rendering_s,
        "growth_s_per_series": growing_s / series,
        "series": series,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(
        f"{result['what']}: {result['frames_per_s']:.1f} frames/s, "
        f"{result['frames_per_s_without_growth']:.1f} frames/s without tree growth"
    )


if __name__ == "__main__":
    main()

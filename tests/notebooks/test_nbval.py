"""nbval: every notebook, one after the other, as somebody stepping through them in JupyterLab would run them, on profile `smoke`.

In a fresh folder of runs: a finished run would skip the work and pass vacuously. nbval injects no parameters, so the notebooks' own defaults are tried.
"""

import os
import re
import subprocess
import sys

from dsa_lib.run import artifacts
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.workspace import PROJECT, Workspace


def test_every_cell_runs_and_checked_outputs_are_the_stored_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    notebooks = [f"notebooks/{name}.ipynb" for name in (*EVERY, "rating_page")]
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-kernel-name", "python3", "-x", "-p", "no:cacheprovider",
               "--nbval-cell-timeout", "600", "--nbval-kernel-startup-timeout", "180", "--timeout", "900", *notebooks]  # fmt: skip
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 5 * len(EVERY)
    ws = Workspace("smoke")
    assert {name: ws.manifest(name)["status"] for name in EVERY} == dict.fromkeys(EVERY, "finished")
    for name in EVERY[:-1]:
        manifest = ws.manifest(name)
        lines = {each: artifacts.find(each) for each in (*manifest["inputs"], *manifest["outputs"])}
        assert {lines[each].notebook for each in manifest["outputs"]} <= {name}, "data_manifests/artifacts.csv"
        unlisted = [each for each in manifest["inputs"] if name[:2] not in lines[each].read_by.split()]
        assert not unlisted, f"data_manifests/artifacts.csv does not say that {name} reads {unlisted}"

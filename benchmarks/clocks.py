"""Wall time of the project's commands on a clean clone of the last commit: the times of README.

python benchmarks/clocks.py reproduce audits test check      # in this order, in one clone; writes benchmarks/clocks.json

Nothing else should run on the machine. The environment is built first and timed apart. With --clone FOLDER an earlier clone is gone on with. In the end the
disk use of the environment and of the phantom run is recorded.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.places import PROJECT
from dsa_lib.run.session import processor

RECORD = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="targets of make")
    parser.add_argument("--clone", help="folder of an earlier clone")
    request = parser.parse_args()
    clone = Path(request.clone or tempfile.mkdtemp(prefix="clocks-"))
    if not (clone / "Makefile").exists():
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the clone's own library
    for target in ("venv", *request.targets):
        started = time.time()
        subprocess.run(["make", target], cwd=clone, env=environment, check=True)
        entry = {
            "seconds": round(time.time() - started),
            "commit": commit.stdout.strip(),
            "processor": processor(),
            "cores": os.cpu_count(),
        }
        if entry["seconds"] > 5 or target != "venv":  # an environment that was there already says nothing
            record[target] = entry | runs(clone, started)
            RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            print(f"make {target}: {entry['seconds']} s", flush=True)
    disk = {"environment_bytes": bytes_of(clone / ".venv"), "run_bytes": bytes_of(clone / "runs" / "phantom")}
    record["disk"] = record.get("disk", {}) | {name: size for name, size in disk.items() if size}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def bytes_of(folder: Path) -> int:
    """What the files below `folder` take on the disk."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))


def runs(clone: Path, started: float) -> dict:
    """Seconds of each notebook of the phantom run that finished since `started`, and the peak memory of the start; empty where there is no such run."""
    folder = clone / "runs" / "phantom" / "provenance"
    files = {name: folder / f"{name}.json" for name in EVERY if (folder / f"{name}.json").exists()}
    seconds = {
        name: json.loads(path.read_text())["seconds"] for name, path in files.items() if path.stat().st_mtime >= started
    }
    if not seconds:
        return {}
    last = json.loads((folder / "run.json").read_text())["invocations"][-1]
    return {"peak_memory_bytes": last["peak_memory_bytes"], "notebooks": seconds}


if __name__ == "__main__":
    main()

"""Run the study, or go on with it: check the request, start snakemake in the run's folder, and say in the end what came out.

make calls this; it also stands alone (`python workflow/launch.py --run mine --profile paper --archive /data/dsa`). The request is checked before
anything runs. One process at a time may work on a run; a lock left by a process that was killed never stands in the way, because the operating
system drops it with the process.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import psutil
from plan import plan

from dsa_lib.nn.public_weights import weights_file
from dsa_lib.run.artifacts import EVERY, PARTS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hidden_paths import referred
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.workspace import PROJECT, Workspace, runs_folder, write_json

SNAKEMAKE = [
    "--cores", "all",
    # Our own lock is in use: snakemake's would outlive a kill.
    "--nolock", "--rerun-incomplete", "--scheduler", "greedy", "--nocolor",
    # Not "code": the call itself decides no result, what does stands in the parameters and inputs of the rules.
    "--rerun-triggers", "mtime", "params", "input",
]  # fmt: skip
OTHER_DATA = ("acdc", "ct_perfusion")  # parameters of notebooks 21 and 23 that name a folder
CURATION = "01_curation"
# Parameters without which nothing can follow on the curation of an archive: somebody has to say which frames are arterial, or how readers rated others.
ARTERIAL = {"annotations", "classifier", "ratings"}
ASKED = 300  # series to have a frame marked in, where there are so many: the study had 953 (§2.2)


def main() -> int:
    request = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)  # what a cluster sends first
    try:
        ws = Workspace(request.run) if request.run else _unnamed(request.archive)
        if request.clean:
            return clean(ws)
        workflow = check(ws, request)
        with lock(ws) as held:
            write(ws, workflow, request)
            status = run(ws, [*by_hand(ws, workflow["notebooks"]), *shlex.split(request.snakemake)], held)
            if status == 0 and list(workflow["notebooks"]) == [CURATION] and (curated := ws.manifest(CURATION)):
                print(after_curation(ws, curated["facts"]["flow"], request))
            return status
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def check(ws: Workspace, request: argparse.Namespace) -> dict:
    """The workflow that was asked for. Raises StudyError, before anything is written, for whatever cannot be."""
    overrides = _mapping("overrides", request.overrides)
    profile = load_profile(request.profile, overrides)
    archive = _archive(request.archive)
    given = _mapping("parameters", request.parameters)
    if request.classifier:
        given["classifier"] = request.classifier
    if name := given.get("classifier"):
        given["classifier"] = _classifier(str(name))
    # Found missing now, not after days of training.
    for name in given:
        if (what := name.rpartition(".")[2]) in OTHER_DATA and given[name]:
            given[name] = _other_data(what, str(given[name]))
    if profile.autoencoder.perceptual == "lpips":
        weights_file("vgg16")
    if profile.fidelity.features == "inception":
        weights_file("inception-v3-fid")
    if request.series:
        if not request.series.isdigit() or not int(request.series):
            raise StudyError(f"SERIES={request.series} is not a number of series: give a whole number from 1")
        if archive is None:
            raise StudyError(f"SERIES={request.series} takes a part of an archive of your own: give ARCHIVE too")
        given["01_curation.most_files"] = int(request.series)  # a file of an archive is a series
    alone = archive is not None and not ARTERIAL & {name.rpartition(".")[2] for name, value in given.items() if value}
    workflow = plan(ws.run, profile, overrides, archive, given, request.parts, CURATION if alone else "")
    _same_study(ws, profile.name, archive)
    return workflow


def write(ws: Workspace, workflow: dict, request: argparse.Namespace) -> None:
    """Write what the Snakefile reads: `workflow.json`, and for each notebook its parameters twice, all in private/.

    `parameters/` has them as they are. `injected/` is what papermill gets and shows in executed notebooks: a path stands there as a reference into the other.
    """
    notebooks = {}
    for name, entry in workflow["notebooks"].items():
        parameters = entry["parameters"]
        write_json(ws.private(f"parameters/{name}.json"), parameters)
        write_json(
            ws.private(f"injected/{name}.json"), {key: referred(key, value) for key, value in parameters.items()}
        )
        notebooks[name] = {key: value for key, value in entry.items() if key != "parameters"}
    write_json(ws.private("workflow.json"), workflow | {"notebooks": notebooks})
    write_json(
        ws.path("provenance/request.json"),
        {"profile": request.profile, "archive": "given" if request.archive else None},
    )
    for folder in ("notebooks", "logs"):
        (ws.root / folder).mkdir(exist_ok=True)


def after_curation(ws: Workspace, flow: dict, request: argparse.Namespace) -> str:
    """What curation found, and the commands that go on from it: shown where nobody has said yet which frames of an archive are arterial."""
    excluded = "; ".join(f"{count:,} {reason}" for reason, count in flow["excluded"].items()) or "none"
    quarantined = "; ".join(f"{count:,} {reason}" for reason, count in flow["quarantined"].items()) or "none"
    again = ["make", "reproduce", f"RUN={ws.run}", f"PROFILE={request.profile}", f"ARCHIVE={request.archive}"]
    for name, text in (("OVERRIDES", request.overrides), ("SERIES", request.series), ("SNAKEMAKE", request.snakemake)):
        again += [f"{name}={text}"] * bool(text)
    own = _mapping("parameters", request.parameters)
    marked = own | {"annotations": _shown(ws.root / "reader_study" / "annotations.csv")}
    given = [f"PARAMETERS={json.dumps(own)}"] * bool(own)
    return f"""
{flow["series kept"]:,} of {flow["series read"]:,} series kept: {flow["frames"]:,} frames of {flow["patients"]:,} patients
excluded series: {excluded}
quarantined files: {quarantined}
one row a series or file: {_shown(ws.root / "series.parquet")}, {_shown(ws.root / "quarantine.csv")}

The run stops here: nobody has said which frames are arterial. Have one frame marked in each of a few hundred series, then go on:
  make readers RUN={ws.run} MODE=annotate SERIES={min(flow["series kept"], ASKED)}
  make readers-export RUN={ws.run} MODE=annotate
  {shlex.join([*again, f"PARAMETERS={json.dumps(marked)}"])}
Or apply the classifier that another run has trained:
  {shlex.join([*again, *given, "CLASSIFIER=<run>"])}"""


def by_hand(ws: Workspace, notebooks: Iterable[str]) -> list[str]:
    """Options that run again what was run by hand since the workflow ran it: with which parameters, the workflow cannot know."""
    found = [
        name
        for name in notebooks
        if (manifest := ws.manifest_path(name)).exists()
        and not _same_bytes(manifest, ws.root / "provenance" / "launched" / manifest.name)
    ]
    return ["--forcerun", *(f"notebook_{name}" for name in found)] if found else []


def run(ws: Workspace, extra: list[str], held: TextIO) -> int:
    """Start snakemake, watch it, and report. Returns the exit status."""
    started = time.time()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "workflow" / "Snakefile"), "--directory", str(ws.root),
               "--configfile", str(ws.private("workflow.json")), *SNAKEMAKE, *extra]  # fmt: skip
    environment = os.environ | {
        "DSA_RUNS": str(runs_folder()),
        "DSA_LAUNCHED_BY": f"{socket.gethostname()}:{os.getpid()}",
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not one of the same name in the home folder
        "PYTHONUNBUFFERED": "1",
    }
    log = ws.path("logs/snakemake.log")
    print(f"run {ws.run} · {_shown(ws.root)}", flush=True)
    with log.open("w") as errors:
        # A group of its own, so that it can be ended whole; it shares the lock, so that a survivor keeps the run locked.
        process = subprocess.Popen(
            command, stderr=errors, env=environment, start_new_session=True, pass_fds=[held.fileno()]
        )
        watch = Watch(process.pid, ws, started)
        watch.start()
        try:
            status = process.wait()
        except KeyboardInterrupt:
            end_tree(process.pid)
            watch.stop()
            print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
        finally:
            watch.stop()
    ran = [name for name in EVERY if _ran_since(ws, name, started)]
    if status != 0:
        with contextlib.suppress(ProcessLookupError):  # what a killed snakemake leaves behind
            os.killpg(process.pid, signal.SIGKILL)
        print(f"\n{_failure(ws, started, log)}", file=sys.stderr)
        return 1
    _summary(ws, ran, started, watch.peak)
    return 0


class Watch(threading.Thread):
    """Samples the memory of the process tree, and ends the tree when the make that called us was killed."""

    def __init__(self, pid: int, ws: Workspace, started: float):
        super().__init__(daemon=True)
        self.peak = 0
        self._pid, self._ws, self._since = pid, ws, started
        self._parent = os.getppid() if "MAKELEVEL" in os.environ else None
        self._done = threading.Event()

    def run(self) -> None:
        noted = 0.0
        while not self._done.wait(0.5):
            if self._parent is not None and os.getppid() != self._parent:
                end_tree(self._pid)
                os._exit(1)
            self.peak = max(self.peak, tree_memory(self._pid))
            if time.time() - noted > 5:
                noted = time.time()
                _note_invocation(self._ws, self._since, self.peak)

    def stop(self) -> None:
        self._done.set()
        if self.is_alive():
            self.join()
        _note_invocation(self._ws, self._since, self.peak)


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants; pages shared between them count once for each, so this is an upper bound."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def end_tree(pid: int) -> None:
    """End a process and all its descendants: politely, then after five seconds for good. Everything written is written atomically."""
    with contextlib.suppress(psutil.Error):
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal_)
            _, tree = psutil.wait_procs(tree, timeout=5)


@contextlib.contextmanager
def lock(ws: Workspace) -> Iterator[TextIO]:
    """Hold the run; raises StudyError, naming the process, while another one works on it."""
    with ws.path(".lock").open("a+") as file:
        for attempt in range(20):  # the last processes of a run that was just killed need a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    file.seek(0)
                    raise StudyError(
                        f"the run {ws.run!r} is in use by another process ({file.read().strip() or 'unknown'}): "
                        "wait for it, end it, or choose another RUN"
                    ) from None
                time.sleep(0.25)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield file


def clean(ws: Workspace) -> int:
    if not ws.root.is_dir():
        raise StudyError(f"there is no run {ws.run!r} in {_shown(ws.root.parent)}: nothing was removed")
    if studies := sorted(ws.root.glob("private/reader_study/*.db")):
        folder = _shown(studies[0].parent)
        raise StudyError(
            f"the run {ws.run!r} holds what readers have answered: move {folder} elsewhere first, nothing was removed"
        )
    with lock(ws):
        shutil.rmtree(ws.root)
    print(f"removed {_shown(ws.root)}")
    return 0


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the study, or resume it.")
    parser.add_argument("--run", default="", help="name of the run, a folder under runs/")
    parser.add_argument("--profile", default="phantom", help="smoke, phantom or paper")
    parser.add_argument("--archive", default="", help="folder of DICOM files (default: simulate a phantom archive)")
    parser.add_argument("--classifier", default="", help="run whose trained phase classifier is applied")
    parser.add_argument("--overrides", default="", help='JSON, e.g. {"diffusion.batch_size": 8}')
    parser.add_argument("--parameters", default="", help="JSON, further parameters of notebooks by name")
    parser.add_argument("--series", default="", help="curate only the first n series of the archive")
    parser.add_argument(
        "--parts", nargs="*", default=[], choices=list(PARTS), help="parts to run in addition to the study"
    )
    parser.add_argument("--snakemake", default="", help="options passed on to snakemake")
    parser.add_argument("--clean", action="store_true", help="delete the run")
    return parser.parse_args()


def _unnamed(archive: str) -> Workspace:
    raise StudyError(
        "the run has no name: add RUN=name" + (", so that your archive gets a run of its own" if archive else "")
    )


def _mapping(name: str, text: str) -> dict:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise StudyError(
            f'{name} {text!r} is not JSON ({error.msg}): write for example {{"diffusion.batch_size": 8}}'
        ) from None
    if not isinstance(value, dict):
        raise StudyError(f'{name} {text!r} is not a mapping: write for example {{"diffusion.batch_size": 8}}')
    return value


def _archive(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise StudyError(f"the archive {text!r} is not a folder: give the folder that holds the DICOM files")
    return path


def _classifier(given: str) -> str:
    """A run's name as it is, a folder with a trained classifier as its full path (notebooks run elsewhere)."""
    if (runs_folder() / given).is_dir() and Path(given).name == given:
        manifest = Workspace(given).manifest("02_classifier")
        if manifest is not None and manifest["status"] == "finished":
            return given
    for place in (Path(given).expanduser(), Path(given).expanduser() / "classifier"):
        if (place / "classifier.json").is_file():
            return str(place.resolve())
    raise StudyError(
        f"{given!r} has no trained classifier: finish notebook 02 of that run first, or name another run or folder"
    )


def _other_data(name: str, given: str) -> str:
    """The full path of a folder of other data (notebooks run elsewhere)."""
    path = Path(given).expanduser().resolve()
    if not path.is_dir():
        raise StudyError(f"{name} {given!r} is not a folder: give one as data_manifests/schemas/{name}.md describes it")
    return str(path)


def _same_study(ws: Workspace, profile: str, archive: Path | None) -> None:
    """A run belongs to one profile and one kind of archive: a forgotten ARCHIVE= must not write a phantom over days of work."""
    ws.check_layout()
    path = ws.root / "provenance" / "request.json"
    if not path.exists() or not (ws.root / "manifests").is_dir():
        return
    before = json.loads(path.read_text())
    for name, was, now in (
        ("profile", before["profile"], profile),
        ("archive", before["archive"], archive and str(archive)),
    ):
        differs = was != now if name == "profile" else (was is None) != (now is None)
        if differs:
            raise StudyError(
                f"the run {ws.run!r} was made with {name} {was or 'phantom'}, not {now or 'phantom'}: "
                f"choose another RUN, or remove it with make clean-run RUN={ws.run}"
            )


def _same_bytes(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


def _ran_since(ws: Workspace, notebook: str, started: float) -> bool:
    path = ws.root / "provenance" / f"{notebook}.json"
    return path.exists() and path.stat().st_mtime >= started


def _failure(ws: Workspace, started: float, log: Path) -> str:
    """One sentence on why the run stopped, and where to read on."""
    executed = [path for path in (ws.root / "notebooks").glob("*.ipynb") if path.stat().st_mtime >= started]
    for path in sorted(executed, reverse=True):
        if (ws.root / "manifests" / path.with_suffix(".json").name).exists():
            continue
        where = f"see {_shown(path)} and {_shown(ws.root / 'logs' / path.with_suffix('.log').name)}"
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    name = "" if output["ename"] == "StudyError" else f"{output['ename']}: "
                    return f"{path.stem} stopped: {name}{output['evalue']}\n{where}"
        return f"{path.stem} stopped without an error of its own: its process was ended from outside, or memory ran out\n{where}"
    tail = "\n".join(log.read_text().strip().splitlines()[-15:])
    return f"{tail}\nthe workflow stopped before any notebook: see {_shown(log)}"


def _summary(ws: Workspace, ran: list[str], started: float, peak: int) -> None:
    skipped = {
        name: manifest["reason"]
        for name in EVERY
        if (manifest := ws.manifest(name)) and manifest["status"] == "skipped"
    }
    print()
    if not ran:
        print("nothing to do: inputs, parameters and code of every notebook are unchanged")
    else:
        print(
            f"{len(ran)} notebook{'s' * (len(ran) != 1)} ran in {_minutes(time.time() - started)}, peak memory {peak / 2**30:.1f} GiB"
        )
    for name, reason in skipped.items():
        print(f"skipped  {name}: {reason}")
    for what in ("tables", "figures", "report.html"):
        if (ws.root / what).exists():
            print(f"{what.removesuffix('.html'):8} {_shown(ws.root / what)}")


def _note_invocation(ws: Workspace, started: float, peak: int) -> None:
    """Keep wall time and peak memory of this start of the run in provenance/run.json, beside those of earlier starts that did some work."""
    path = ws.path("provenance/run.json")
    before = json.loads(path.read_text())["invocations"] if path.exists() else []
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))
    mine = {"started": stamp, "seconds": round(time.time() - started, 1), "peak_memory_bytes": peak,
            "notebooks": [name for name in EVERY if _ran_since(ws, name, started)]}  # fmt: skip
    kept = [entry for entry in before if entry["started"] != stamp and entry["notebooks"]]
    write_json(path, {"invocations": [*kept, mine] if mine["notebooks"] or not kept else kept})


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())

"""The workflow as a user calls it, through make, on profile `smoke`: a whole run, resuming, changing, killing, failing, and an archive of one series.

One run is made and shared; what changes a run works on a copy of it. What is refused before anything runs is asked in this process, without snakemake.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner
from notebook_cells import execute
from papermill.cli import papermill

from dsa_lib.core import published as core_published
from dsa_lib.run.artifacts import REPRODUCED, STUDY
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT, sha256

sys.path.insert(0, str(PROJECT / "workflow"))
import launch

NOTHING = "nothing to do"
# Two threads that share a processor with another test train ten times as long as one. Only this option sets their number: snakemake tells a job that it
# has as many as there are cores, whatever OMP_NUM_THREADS was.
ONE_THREAD = "--cores 1"
# Stands in for Python: prints its arguments, each ended by a zero byte, as `make` passes them on.
SPEAKS = r"""#!/bin/sh
printf '%s\0' "$@"
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def call(runs, target="smoke", **variables):
    """The command of `make target VARIABLE=value …` with this test's own Python and runs folder."""
    made = {"BIN": str(Path(sys.executable).parent), "READY": "", "SNAKEMAKE": ONE_THREAD, **variables}
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    arguments = [f"{key}={value}" for key, value in made.items()]
    return ["make", "--no-print-directory", target, *arguments], environment | {"DSA_RUNS": str(runs)}


def make(runs, target="smoke", **variables):
    command, environment = call(runs, target, **variables)
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1200)


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Call of the launcher's `main` with the arguments that `make target VARIABLE=value …` passes it: (exit status, output, errors)."""
    python = tmp_path / "speaks" / "python"
    python.parent.mkdir()
    python.write_text(SPEAKS)
    python.chmod(0o755)
    handler = signal.getsignal(signal.SIGTERM)  # the launcher sets its own

    def ask(runs, target="smoke", **variables):
        passed = make(runs, target, BIN=str(python.parent), **variables)
        assert passed.returncode == 0 and passed.stdout.startswith("workflow/launch.py\0"), passed.stderr
        monkeypatch.setattr(sys, "argv", passed.stdout.split("\0")[:-1])
        monkeypatch.setenv("DSA_RUNS", str(runs))
        capsys.readouterr()
        status = launch.main()
        return status, *capsys.readouterr()

    yield ask
    signal.signal(signal.SIGTERM, handler)


def by_hand(runs, monkeypatch, *arguments):
    """`papermill arguments` in the project's folder, in this process: click's result."""
    monkeypatch.setenv("DSA_RUNS", str(runs))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.chdir(PROJECT)
    return CliRunner().invoke(papermill, arguments)


def worked(done):
    """Numbers of the notebooks that ran, from the headings on the terminal."""
    return [line.split("] ")[1][:2] for line in done.stdout.splitlines() if line.startswith("[") and "/" in line]


def manifest(runs, run, notebook):
    return json.loads((runs / run / "manifests" / f"{notebook}.json").read_text())


@pytest.fixture(scope="module")
def whole(runs):
    done = make(runs, RUN="whole")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture
def copied(runs, whole, request):
    """A copy of the finished run, under the name of the test."""
    name = request.node.name
    shutil.copytree(runs / "whole", runs / name, symlinks=True)
    return name


def test_one_command_runs_every_notebook_in_order(runs, whole):
    assert worked(whole) == [name[:2] for name in REPRODUCED]
    assert "[1/10] 00_phantom_archive" in whole.stdout
    assert {name: manifest(runs, "whole", name)["status"] for name in REPRODUCED} == dict.fromkeys(
        REPRODUCED, "finished"
    )
    assert "report.html" in whole.stdout


def test_tables_follow_the_contract(runs, whole):
    for number in core_published.TITLES:
        frame = pd.read_csv(runs / "whole" / "tables" / f"table{number}.csv")
        assert list(frame.columns) == ["row", "column", "published", "this_run", "source"]
        published = core_published.published(number)
        pd.testing.assert_frame_equal(
            frame[["row", "column", "published"]].head(len(published)), published, check_dtype=False
        )
        assert not frame.duplicated(["row", "column"]).any()
        filled = frame["this_run"].notna()
        assert filled.any()
        wanted = "simulated ratings" if number in (2, 3, 4) else "phantom"
        assert set(frame.loc[filled, "source"]) == {wanted}
        assert frame.loc[~filled, "source"].isna().all()
        assert not frame["row"].eq("Ours").any() or frame.loc[frame["row"] == "Ours", "this_run"].isna().all()


def test_figures_and_report_are_there(runs, whole):
    names = {path.stem for path in (runs / "whole" / "figures").glob("*.png")}
    assert {f"figure{number}" for number in range(1, 6)} <= names
    page = (runs / "whole" / "report.html").read_text()
    assert "every frame behind these results is simulated" in page and "no clinician rated these images" in page
    assert page.count("data:image/webp;base64,") >= 5
    assert "was not made" not in page and "Not made" not in page


def test_time_and_peak_memory_are_measured(runs, whole):
    (start,) = json.loads((runs / "whole" / "provenance" / "run.json").read_text())["invocations"]
    assert start["notebooks"] == list(REPRODUCED)
    assert 5e7 < start["peak_memory_bytes"] < 6e9


def test_the_same_command_again_does_nothing(runs, whole):
    before = {path: path.stat().st_mtime_ns for path in (runs / "whole" / "manifests").iterdir()}
    (PROJECT / "dsa_lib" / "readers" / "tables.py").touch()  # newer, and not different
    # A single option must not be taken for one of the launcher's.
    one_option = make(runs, RUN="whole", SNAKEMAKE="--dry-run")
    assert one_option.returncode == 0, one_option.stderr[-3000:]
    done = make(runs, RUN="whole")
    assert done.returncode == 0 and NOTHING in done.stdout and not worked(done)
    assert before == {path: path.stat().st_mtime_ns for path in (runs / "whole" / "manifests").iterdir()}


def test_a_run_can_be_shipped(runs, whole, tmp_path, monkeypatch):
    """`python -m dsa_lib.nn.export`: half precision, a pipeline that opens, and a card that names the patients who were seen and no folder."""
    from dsa_lib.ldm.pipeline import DSAPipeline
    from dsa_lib.nn import export

    monkeypatch.setenv("DSA_RUNS", str(runs))
    folder = tmp_path / "weights"
    card = export.export("whole", folder)
    truth = pd.read_parquet(runs / "whole" / "archive_truth.parquet")
    frames = pd.read_parquet(runs / "whole" / "frames.parquet")
    seen = [patient for patients in card["patients"].values() for patient in patients]
    assert set(seen) < set(truth["patient_id"])
    assert len(seen) == len(set(seen)) == frames.loc[frames["split"] != "test", "patient"].nunique()
    assert {name: sha256(folder / name) for name in card["files"]} == card["files"]
    for name in ("classifier", "vae", "unet", "text_encoder", "unet_unconditional"):
        source = {
            "unet": "ldm/unet",
            "text_encoder": "ldm/text_encoder",
            "unet_unconditional": "ldm_unconditional/unet",
        }
        whole_size, half_size = (
            sum(path.stat().st_size for path in place.glob("*.safetensors"))
            for place in (runs / "whole" / source.get(name, name), folder / name)
        )
        assert half_size < 0.7 * whole_size, name
    asked = ("anterior", "B", -90, 0)
    images = [
        DSAPipeline.from_pretrained(place)(asked, seeds=[1], num_inference_steps=4, allow_unseen=True).astype(int)
        for place in (runs / "whole" / "ldm", folder)
    ]
    assert abs(images[0] - images[1]).max() <= 4  # weights rounded to 11 bits
    text = (folder / "card.json").read_text() + (folder / "README.md").read_text()
    assert str(runs) not in text and str(PROJECT) not in text
    assert "autoencoder" in text and "conditional denoising network" in text
    (runs / "whole" / "manifests" / "04_ldm.json").rename(tmp_path / "hidden.json")
    try:
        with pytest.raises(StudyError, match="has not finished notebook 04_ldm"):
            export.export("whole", tmp_path / "other")
    finally:
        (tmp_path / "hidden.json").rename(runs / "whole" / "manifests" / "04_ldm.json")


def test_a_run_is_held_against_the_tracked_reference(runs, whole):
    """On any machine: what is exact agrees, and so does at least 98 % of what training decides; on the machines of the reference all of it does."""
    done = make(runs, "verify", RUN="whole")
    assert done.returncode in (0, 1), done.stderr
    counted = [line.split() for line in done.stdout.splitlines() if re.match(r"\S+\.(csv|json) +\d", line)]
    assert {f"tables/table{number}.csv" for number in range(1, 6)} <= {line[0] for line in counted}
    equal, within, apart = (sum(int(line[k]) for line in counted) for k in (1, 2, 3))
    assert equal > 500 and within > 100 and apart <= (within + apart) / 50, done.stdout
    assert (" reproduces Tables 1–5 " in done.stdout) == (done.returncode == 0) == (apart == 0)


def test_simulated_ratings_given_back_are_shown_as_simulated(runs, copied, tmp_path):
    """Under other names, without manifest and column: their rows are known."""
    given = {}
    for name in ("screening", "ratings"):
        given[name] = str(tmp_path / f"our_{name}.csv")
        frame = pd.read_csv(runs / "whole" / "readers" / f"{name}.csv", dtype=str)
        frame.drop(columns="origin").to_csv(given[name], index=False)
    until = f"{ONE_THREAD} --until notebook_06_reader_analysis"
    done = make(runs, RUN=copied, PARAMETERS=json.dumps(given), SNAKEMAKE=until)
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifest(runs, copied, "06_reader_analysis")["facts"]["source"] == "simulated ratings"
    for number in (2, 3, 4):
        frame = pd.read_csv(runs / copied / "tables" / f"table{number}.csv")
        assert set(frame["source"].dropna()) == {"simulated ratings"}


def test_a_changed_number_runs_what_reads_it_and_what_follows(runs, copied):
    done = make(runs, RUN=copied, OVERRIDES='{"fidelity.neighbours": 2}')
    assert done.returncode == 0, done.stderr
    assert worked(done) == ["07", "90"]


def test_audits_go_on_from_the_study(runs, copied):
    """Nothing of the study runs again; the report then shows the audit."""
    one = {"RUN": copied, "PROFILE": "smoke", "SNAKEMAKE": f"{ONE_THREAD} --until notebook_12_vessel_plausibility"}
    done = make(runs, "audits", **one)
    assert done.returncode == 0 and worked(done) == ["12"], done.stdout + done.stderr
    assert manifest(runs, copied, "12_vessel_plausibility")["status"] == "finished"


def test_a_run_of_the_earlier_layout_is_refused_and_left_as_it_is(ask, runs, copied):
    path = runs / copied / "manifests" / "03_vae.json"
    earlier = json.loads(path.read_text())
    del earlier["layout"]
    path.write_text(json.dumps(earlier))
    status, said, errors = ask(runs, RUN=copied)
    (line,) = errors.splitlines()
    assert status != 0 and "made by an earlier version of this project" in line and not said
    assert json.loads(path.read_text()) == earlier


def test_what_was_run_by_hand_with_other_parameters_is_run_again(runs, copied, monkeypatch):
    given = ("-r", "run", copied, "-y", '{"overrides": {"fidelity.neighbours": 2}}')
    by_hand_too = by_hand(runs, monkeypatch, "notebooks/07_fid.ipynb", str(runs / "by_hand.ipynb"), *given)
    assert by_hand_too.exit_code == 0, by_hand_too.output
    plan = make(runs, RUN=copied, SNAKEMAKE="--dry-run")
    assert plan.returncode == 0, plan.stderr
    planned = set(re.findall(r"^notebook_(\d\d)\w+ +1$", plan.stdout, re.MULTILINE))  # snakemake prints its table twice
    assert planned == {"07", "90"}
    assert sha256(runs / copied / "fidelity.csv") != sha256(runs / "whole" / "fidelity.csv")
    again = {"RUN": copied, "SNAKEMAKE": f"{ONE_THREAD} --until notebook_07_fid"}
    done = make(runs, **again)
    assert done.returncode == 0 and worked(done) == ["07"], done.stdout + done.stderr
    assert sha256(runs / copied / "fidelity.csv") == sha256(runs / "whole" / "fidelity.csv")
    assert NOTHING in make(runs, **again).stdout


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(runs, copied):
    root = runs / copied
    log = root / "logs" / "04_ldm.log"
    (root / "manifests" / "04_ldm.json").unlink()
    log.unlink()
    for name in ("ldm", "ldm_unconditional"):
        shutil.rmtree(root / "checkpoints" / name)
        shutil.rmtree(root / name)
    until = f"{ONE_THREAD} --until notebook_04_ldm"
    often = {"OVERRIDES": '{"log_every_s": 0, "checkpoint_every_s": 0}', "SNAKEMAKE": until}
    command, environment = call(runs, RUN=copied, **often)
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 300
    while not (log.exists() and " conditional diffusion 3/" in log.read_text()):
        assert process.poll() is None and time.time() < deadline, "04 never came to its training"
        time.sleep(0.05)
    tree = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # make alone, outright: nobody is told
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert not alive, [item.cmdline() for item in alive]
    assert not (root / "manifests" / "04_ldm.json").exists()

    done = make(runs, RUN=copied, **often)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert worked(done) == ["04"]
    assert " conditional diffusion 1/" not in log.read_text(), "the training began anew"
    assert sha256(root / "ldm" / "unet") == sha256(runs / "whole" / "ldm" / "unet")
    assert sha256(root / "ldm_unconditional") == sha256(runs / "whole" / "ldm_unconditional")


def test_two_commands_cannot_work_on_one_run(runs, whole):
    with (runs / "whole" / ".lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = make(runs, RUN="whole")
    assert done.returncode != 0 and "is in use by another process" in done.stderr


def test_a_failing_notebook_ends_in_its_sentence(runs, copied, tmp_path):
    shutil.copy(runs / "whole" / "readers" / "screening.csv", tmp_path)
    ratings = pd.read_csv(runs / "whole" / "readers" / "ratings.csv", dtype=str)
    ratings.loc[ratings["rating"].notna().idxmax(), "rating"] = "9"
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    given = {"screening": str(tmp_path / "screening.csv"), "ratings": str(tmp_path / "ratings.csv")}
    done = make(runs, RUN=copied, PARAMETERS=json.dumps(given))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("make:")]
    assert len(lines) == 2
    assert lines[0].startswith("06_reader_analysis stopped: ") and "ratings.csv" in lines[0] and "9" in lines[0]
    assert lines[1].startswith("see ") and "06_reader_analysis.ipynb" in lines[1]
    assert "Traceback" not in done.stdout + done.stderr
    assert manifest(runs, copied, "05_sampling")["status"] == "finished"  # what was done is kept


def test_one_series_is_classified_the_rest_skipped_and_reported(runs, whole, monkeypatch):
    """An archive of a single run: no training is possible, and that is no failure.

    What is skipped after 02 is run in this process: it would spend its time on starting kernels.
    """
    archive = runs / "one series"
    archive.mkdir()
    series = pd.read_parquet(runs / "whole" / "series.parquet")
    key = pd.read_parquet(runs / "whole" / "private" / "series_key.parquet")
    kept = key[key["series"].isin(series.loc[series["kept"], "series"])]
    shutil.copy(runs / "whole" / "archive" / kept.iloc[0]["file"], archive / "only.dcm")
    given = {"PROFILE": "smoke", "RUN": "given", "ARCHIVE": str(archive)}
    done = make(runs, "reproduce", **given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert worked(done) == ["01"] and "[1/1] 01_curation" in done.stdout
    assert "1 of 1 series kept" in done.stdout and "make readers RUN=given MODE=annotate SERIES=1\n" in done.stdout
    again = done.stdout.strip().splitlines()[-1].strip()
    assert (
        again
        == f"make reproduce RUN=given PROFILE=smoke 'ARCHIVE={archive}' 'SNAKEMAKE={ONE_THREAD}' 'CLASSIFIER=<run>'"
    )
    first = f"{ONE_THREAD} --until notebook_02_classifier"
    done = make(runs, "reproduce", CLASSIFIER="whole", **(given | {"SNAKEMAKE": first}))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert worked(done) == ["02"] and "[2/9] 02_classifier" in done.stdout
    assert manifest(runs, "given", "01_curation")["status"] == "finished"
    monkeypatch.setenv("DSA_RUNS", str(runs))
    monkeypatch.chdir(PROJECT / "notebooks")
    for name in (*STUDY[3:], "90_report"):
        execute(name, run="given", profile="smoke")
    for name in STUDY[3:]:
        found = manifest(runs, "given", name)
        assert found["status"] == "skipped" and found["reason"].strip().endswith("."), name
    page = (runs / "given" / "report.html").read_text()
    assert "Archive run" in page and "Not made:" in page
    assert not (runs / "given" / "archive").exists()


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"PROFILE": "large"}, "choose one of smoke, phantom, paper"),
        ({"OVERRIDES": '{"difusion.steps_conditional": 3}'}, "does not exist"),
        ({"OVERRIDES": '{"diffusion.batch_size": "big"}'}, "whole number"),
        ({"OVERRIDES": "{oops"}, "not JSON"),
        ({"PARAMETERS": '{"clasifier": "x"}'}, "no notebook has a parameter"),
        ({"ARCHIVE": "no/such/folder"}, "not a folder"),
        ({"CLASSIFIER": "nobody"}, "no trained classifier"),
        ({"RUN": "../up"}, "run name"),
        ({"SERIES": "many", "ARCHIVE": "."}, "whole number from 1"),
        ({"SERIES": "0", "ARCHIVE": "."}, "whole number from 1"),
        ({"SERIES": "300"}, "give ARCHIVE"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(ask, tmp_path, variables, words):
    status, said, errors = ask(tmp_path / "runs", **{"RUN": "new", **variables})
    (line,) = errors.splitlines()
    assert status != 0 and line.startswith("error: ") and words in line and not said
    assert not (tmp_path / "runs").exists()


def test_a_refusal_ends_make_too(tmp_path):
    done = make(tmp_path / "runs", RUN="new", OVERRIDES='{"difusion.steps_conditional": 3}')
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert done.returncode != 0 and line.startswith("error: ") and "does not exist" in line


@pytest.mark.parametrize(
    "name, near",
    [("ARCHIV", "ARCHIVE"), ("archive", "ARCHIVE"), ("profile", "PROFILE"), ("PARAMETER", "PARAMETERS"), ("RNU", "RUN"), ("QQQQ", "")],
)  # fmt: skip
def test_an_unknown_variable_is_refused_by_every_target(tmp_path, name, near):
    for target in ("reproduce", "readers", "clean-run"):
        done = make(tmp_path / "runs", target, RUN="new", **{name: "smoke"})
        assert done.returncode != 0 and not done.stdout
        assert f"unknown variable {name}: " in done.stderr and (f"did you mean {near}?" in done.stderr) == bool(near)


def test_a_variable_before_make_is_refused(tmp_path):
    command, environment = call(tmp_path / "runs", "reproduce", RUN="new")
    done = subprocess.run(command, cwd=PROJECT, env=environment | {"ARCHIVE": "/x"}, capture_output=True, text=True)
    assert done.returncode != 0 and "ARCHIVE stands in the environment" in done.stderr


def test_a_python_that_is_missing_or_cannot_make_an_environment_gets_a_sentence(tmp_path):
    bare = tmp_path / "bare"  # stands in for Debian's Python without python3-venv
    bare.write_text('#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\n')
    bare.chmod(0o755)
    for python, words in (("python9.9", "was not found"), (str(bare), "apt install python3-venv")):
        command = ["make", "--no-print-directory", "venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        _, environment = call(tmp_path / "runs")  # not that of make test, which may call this
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
        assert done.returncode != 0 and line.startswith("error: ") and words in line
        assert not (tmp_path / "venv").exists()


def test_an_archive_needs_a_run_name_of_its_own_and_a_run_keeps_its_kind(ask, runs, whole, tmp_path):
    def refusal(*arguments, **variables):
        status, _, errors = ask(runs, *arguments, **variables)
        assert status != 0
        return errors

    assert "add RUN=name" in refusal("reproduce", ARCHIVE=str(tmp_path))
    assert "was made with archive phantom" in refusal(RUN="whole", ARCHIVE=str(tmp_path))
    assert "was made with profile smoke" in refusal("reproduce", RUN="whole")


def test_a_run_is_removed_only_by_name(ask, runs, copied):
    assert ask(runs, "clean-run")[0] != 0
    assert ask(runs, "clean-run", RUN=copied)[0] == 0
    assert not (runs / copied).exists() and (runs / "whole").exists()


@pytest.mark.parametrize(
    "parameters, words",
    [
        (["-p", "rum", "x"], "did you mean 'run'"),
        (["-p", "run", "7"], "papermill's -r"),
        (["-p", "profile", "large"], "smoke, phantom, paper"),
        (["-r", "run", "empty"], "Next|finished"),
    ],
)
def test_a_notebook_runs_alone_through_papermill_and_checks_its_parameters(tmp_path, monkeypatch, parameters, words):
    done = by_hand(
        tmp_path / "runs", monkeypatch, "notebooks/90_report.ipynb", str(tmp_path / "out.ipynb"), *parameters
    )
    if "empty" in parameters:
        assert done.exit_code == 0 and (tmp_path / "runs" / "empty" / "report.html").exists()
    else:
        assert done.exit_code != 0 and words in str(done.exception)

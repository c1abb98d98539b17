"""Paths of the user stay out of what a notebook shows: references in, paths hidden in errors."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from dsa_lib.run import hidden_paths
from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import begin
from dsa_lib.run.workspace import PROJECT, Workspace


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("archive", "/data/Mueller", "private:archive"),
        ("archive", "Mueller", "private:archive"),
        ("annotations", "~/marks.csv", "private:annotations"),
        ("annotations", "of/Mueller.csv", "private:annotations"),
        ("classifier", "earlier-run", "earlier-run"),
        ("archive", "", ""),
        ("run", "a", "a"),
        ("workers", 2, 2),
        ("overrides", {"a": 1}, {"a": 1}),
    ],
)
def test_paths_alone_become_references(name, value, shown):
    assert hidden_paths.referred(name, value) == shown


def test_a_reference_is_resolved_for_the_notebook_that_it_was_made_for(tmp_path, capsys):
    (tmp_path / "Mueller").mkdir()
    given = {"run": "t", "profile": "smoke", "archive": str(tmp_path / "Mueller"), "vessel_terms": str(tmp_path / "v.csv")}  # fmt: skip
    Workspace("t").private("parameters/01_curation.json").write_text(json.dumps(given))
    namespace = {name: hidden_paths.referred(name, value) for name, value in given.items()} | {"overrides": {}, "In": []}  # fmt: skip
    study = begin("01_curation", namespace)
    assert study.archive == tmp_path / "Mueller" and namespace["vessel_terms"] == given["vessel_terms"]
    assert str(tmp_path) not in capsys.readouterr().out
    with pytest.raises(StudyError, match="or give the path itself"):
        begin(
            "02_classifier", {"run": "t", "profile": "smoke", "archive": "private:archive", "overrides": {}, "In": []}
        )


def test_a_path_and_what_lies_below_is_cut_out_up_to_the_quote():
    clean = hidden_paths.cleaner({"archive": "/data/dsa", "annotations": "/data/dsa/Marks_of_Mueller.csv", "run": "x"})
    text = "[Errno 2] No such file: '/data/dsa/Mueller^Erika/a b.dcm' (/data/dsa)"
    assert clean(text) == "[Errno 2] No such file: '<archive>' (<archive>)"
    assert clean("in /data/dsa/Marks_of_Mueller.csv") == "in <annotations>"
    assert hidden_paths.cleaner({"archive": ""})("unchanged /data") == "unchanged /data"
    # A bare word could be part of any other.
    assert hidden_paths.cleaner({"archive": "dsa"})("dsa_lib") == "dsa_lib"


# The name is put together only as the cell runs: whatever shows it does not have it from the cell's code.
CELLS = {
    "open": "(study.archive / ('Zz' + 'mueller^Erika') / 'scan.dcm').read_bytes()",
    "chained": "try:\n    open(study.archive / ('Zz' + 'mueller'))\nexcept OSError as error:\n    raise RuntimeError(f'no {error.filename}')",
    "worker": (
        "from concurrent.futures import ProcessPoolExecutor\nfrom pathlib import Path\n"
        "ProcessPoolExecutor(1).submit(Path.read_bytes, study.archive / ('Zz' + 'mueller')).result()"
    ),
}


def test_errors_of_a_kernel_name_no_file_of_the_archive(tmp_path):
    """Each kind of failure through papermill, as the workflow calls it: neither notebook nor log may tell the file (about 10 s)."""
    archive = tmp_path / "Zzarchive"
    archive.mkdir()
    values = {"run": "t", "profile": "smoke", "archive": str(archive)}
    Workspace("t").private("parameters/01_curation.json").write_text(json.dumps(values))
    processes = {}
    for kind, code in CELLS.items():
        parameters = "run = 't'\nprofile = 'smoke'\narchive = 'private:archive'\noverrides = {}"
        cells = [parameters, "from dsa_lib.run.session import begin\nstudy = begin('01_curation', globals())", code]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        nbformat.write(notebook, tmp_path / f"{kind}.ipynb")
        command = [sys.executable, "-m", "papermill", "-", f"{kind}_out.ipynb", "--kernel", "python3", "--log-output"]
        environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        with (tmp_path / f"{kind}.ipynb").open() as source:
            processes[kind] = subprocess.Popen(
                command, stdin=source, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )  # fmt: skip
    for kind, process in processes.items():
        log = process.communicate(timeout=120)[0]
        shown = (tmp_path / f"{kind}_out.ipynb").read_text()
        assert process.returncode != 0 and '"error"' in shown and "<archive>" in shown and "<archive>" in log, kind
        assert "Zzarchive" not in shown + log and "Zzmueller" not in shown + log, kind

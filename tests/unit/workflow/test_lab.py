"""Working copies for JupyterLab: the run's own parameters, links that lead somewhere, edits that are kept, and no tracked file touched."""

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.workspace import LAYOUT, PROJECT, Workspace, write_json

sys.path.insert(0, str(PROJECT / "workflow"))
import lab


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    ws = Workspace("mine")
    for name in ("01_curation", "06_reader_analysis"):
        write_json(ws.manifest_path(name), {"layout": LAYOUT, "status": "finished", "reason": None})
        (ws.path(f"notebooks/{name}.ipynb")).write_text("{}")
    own = {"run": "mine", "profile": "phantom", "archive": "/data/Ä dsa", "overrides": {"readers.bootstrap": 50}}
    write_json(ws.private("parameters/01_curation.json"), own | {"most_files": 300})
    write_json(
        ws.private("parameters/06_reader_analysis.json"), {"run": "mine", "profile": "phantom", "expert_roles": "NR"}
    )
    return ws


def cells(ws, name, kind="code"):
    notebook = nbformat.read(ws.root / "lab" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def values(ws, name):
    (cell,) = [cell for cell in cells(ws, name) if "parameters" in cell.metadata.get("tags", [])]
    found = {"__annotations__": {}}
    exec(cell.source, found)
    return found


def test_copies_say_what_the_run_was_given(ws):
    lab.prepare(ws)
    first = values(ws, "01_curation")
    assert (first["run"], first["profile"], first["most_files"]) == ("mine", "phantom", 300)
    assert first["overrides"] == {"readers.bootstrap": 50} and first["vessel_terms"] == ""
    assert values(ws, "06_reader_analysis")["expert_roles"] == "NR"
    # Not run yet: what the others have in common. No copy names the folder of the archive.
    later = values(ws, "13_memorisation")
    assert (later["run"], later["profile"]) == ("mine", "phantom")
    assert first["archive"] == later["archive"] == "private:archive"
    assert json.loads((ws.root / "private/parameters/13_memorisation.json").read_text())["archive"] == "/data/Ä dsa"
    assert "/data" not in "".join(path.read_text() for path in (ws.root / "lab").glob("*"))


def test_a_run_of_an_archive_of_ones_own_has_no_copy_of_notebook_00(ws):
    lab.prepare(ws)
    assert {path.stem for path in (ws.root / "lab").glob("*.ipynb")} == set(EVERY) - {"00_phantom_archive"}


def test_a_run_made_by_hand_is_read_from_its_record(ws):
    shutil.rmtree(ws.root / "private")
    given = {"run": "earlier name", "profile": "phantom", "overrides": {"seed": 3}, "annotations": "file sha256:0123"}
    write_json(ws.root / "provenance" / "02_classifier.json", {"parameters": given})
    assert "# Run `mine`, profile `phantom`" in lab.prepare(ws).read_text()
    found = values(ws, "02_classifier")
    assert (found["run"], found["profile"], found["overrides"]) == ("mine", "phantom", {"seed": 3})
    assert found["annotations"] == ""  # the record has a fingerprint in place of the path


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [{}]}'])
def test_a_copy_that_is_no_notebook_any_more_is_kept_and_named(ws, text, capsys):
    lab.prepare(ws)
    path = ws.root / "lab" / "07_fid.ipynb"
    path.write_text(text)
    lab.prepare(ws)
    assert path.read_text() == text and "kept: 07_fid" in capsys.readouterr().out


def test_every_copy_has_neither_outputs_nor_a_twin_and_its_links_lead_somewhere(ws):
    links = 0
    write_json(ws.private("parameters/01_curation.json"), {"run": "mine", "profile": "phantom"})  # without an archive
    lab.prepare(ws)
    for name in EVERY:
        notebook = nbformat.read(ws.root / "lab" / f"{name}.ipynb", as_version=4)
        assert "jupytext" not in notebook.metadata and not any(cell.get("outputs") for cell in notebook.cells)
        for cell in cells(ws, name, "markdown"):
            for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", cell.source):
                links += 1
                assert (ws.root / "lab" / link).exists(), f"{name}: {link}"
    assert links > 5


def test_an_edited_copy_is_kept_and_the_others_follow_the_tracked_notebook(ws, monkeypatch, capsys):
    lab.prepare(ws)
    path, other = (ws.root / "lab" / f"{name}.ipynb" for name in ("06_reader_analysis", "07_fid"))
    edited, ran = nbformat.read(path, as_version=4), nbformat.read(other, as_version=4)
    edited.cells[-1].source += "\n# mine"
    nbformat.write(edited, path)
    code = next(cell for cell in ran.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(ran, other)
    page = lab.prepare(ws)
    assert (
        "edited, therefore kept: 06_reader_analysis" in capsys.readouterr().out
        and "analysis.ipynb) · edited" in page.read_text()
    )
    assert nbformat.read(path, as_version=4).cells[-1].source.endswith("# mine")
    assert any(cell.get("outputs") for cell in cells(ws, "07_fid"))  # running is no edit, and its outputs stay
    write_json(ws.private("parameters/07_fid.json"), {"run": "mine", "profile": "smoke"})
    lab.prepare(ws)
    assert values(ws, "07_fid")["profile"] == "smoke"


def test_the_start_page_lists_report_then_executed_then_copies(ws):
    (ws.root / "report.html").write_text("")
    text = lab.prepare(ws).read_text()
    places = [text.index(part) for part in ("../report.html", "../notebooks/01_curation.ipynb", "(01_curation.ipynb)")]
    assert places == sorted(places)
    assert "01_curation](../notebooks/01_curation.ipynb) · finished" in text


@pytest.mark.parametrize(
    "line, given, wanted",
    [
        ('a: str = "x"  # ä: remark', {"a": "ö'\""}, 'a: str = "ö\'\\""  # ä: remark'),
        ('a: str = (\n    "x,y"  # inner\n)\nb: int = 2', {"a": "z", "b": 3}, 'a: str = "z"\nb: int = 3'),
        ("a: dict = {}  # r", {"a": {"k": [1, True]}}, "a: dict = {'k': [1, True]}  # r"),
        ("a: bool = False", {"c": 1}, "a: bool = False"),
    ],
)  # fmt: skip
def test_values_are_put_in_and_the_rest_of_the_line_stays(line, given, wanted):
    got = lab.with_values(line, given)
    one, two = {}, {}
    exec(got, one)
    exec(wanted, two)
    assert {k: v for k, v in one.items() if len(k) == 1} == {k: v for k, v in two.items() if len(k) == 1}
    assert got.count("#") == wanted.count("#") or "inner" in line


def test_the_newest_run_is_the_default_and_without_any_it_is_smoke(ws, tmp_path, monkeypatch, capsys):
    assert lab.newest() == "mine"
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "empty"))
    assert lab.newest() is None
    lab.prepare(Workspace("smoke"))
    assert "profile smoke, nothing has run yet" in capsys.readouterr().out
    assert "Nothing has run yet" in (tmp_path / "empty/smoke/lab/start.md").read_text()


def test_a_run_that_is_not_there_is_refused(ws, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab.py", "--run", "nobody"])
    assert lab.main() == 2 and "there is no run 'nobody'" in capsys.readouterr().err
    assert not Path(ws.root.parent / "nobody").exists()

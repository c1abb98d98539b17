"""The neighbouring systems on the data of their sources, by one parameter: small volumes made here, in the public layout, all the way to the tables."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import test_acdc
import test_ct_perfusion

from dsa_lib.core.published import read_table
from dsa_lib.run.workspace import PROJECT, Workspace


def execute(notebook: str, run: str, folder: Path, runs: Path, monkeypatch, **parameters) -> Workspace:
    monkeypatch.setenv("DSA_RUNS", str(runs))
    command = [sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(folder / "out.ipynb")]
    command += ["--cwd", "notebooks", "-r", "run", run, "-r", "profile", "smoke"]
    for name, value in parameters.items():
        command += ["-r", name, str(value)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Workspace(run)


def test_the_source_s_table_of_acdc(tmp_path, monkeypatch):
    for n in range(1, 7):
        test_acdc.write(tmp_path / "acdc", f"patient{n:03d}")
    for n in (101, 102):
        test_acdc.write(tmp_path / "acdc", f"patient{n}", "testing")
    where = "acdc", tmp_path, tmp_path / "runs", monkeypatch
    ws = execute("21_maps_and_edges", *where, acdc=tmp_path / "acdc")
    assert ws.manifest("21_maps_and_edges")["status"] == "finished"
    table = read_table(ws.root / "tables" / "maps_scores.csv").set_index(["row", "column"])
    ours = table.loc[("LDM", "SSIM, w/ edges")]
    assert ours["source"] == "ACDC" and ours["published"] == pytest.approx(0.608)
    # A model of eight steps draws noise, whose SSIM may be a little below 0: what must hold is that the cell is the mean over the test patients' images.
    images = pd.read_csv(ws.root / "tables" / "maps_images.csv")
    of_ldm = images[(images["method"] == "LDM") & (images["half"] == "w/ edges")]
    assert set(of_ldm["patient"]) == {"patient101", "patient102"} and of_ldm["ssim"].between(-1, 1).all()
    assert ours["this_run"] == pytest.approx(of_ldm["ssim"].mean(), rel=1e-6)
    assert of_ldm["nmse"].gt(0).all() and of_ldm["nmse"].nunique() == len(of_ldm)
    # Notebook 22 goes on from what 21 made, and is told of no folder.
    execute("22_map_edits", *where)
    assert ws.manifest("22_map_edits")["status"] == "finished"
    complied = pd.read_csv(ws.root / "tables" / "maps_compliance.csv")
    assert {"right ventricle", "myocardium", "left ventricle"} <= set(complied["of"])
    assert complied["score"].between(0, 1).all() and len(ws.manifest("22_map_edits")["facts"]["edits"]) == 0


def test_diffusion_from_ct_perfusion(tmp_path, monkeypatch):
    for name in "abcdef":
        test_ct_perfusion.write_patient(tmp_path / "ctp" / name)
    given = {"ct_perfusion": tmp_path / "ctp"}
    ws = execute("23_lesion_post_training", "ctp", tmp_path, tmp_path / "runs", monkeypatch, **given)
    assert ws.manifest("23_lesion_post_training")["status"] == "finished"
    table = read_table(ws.root / "tables" / "lesions_scores.csv")
    ours = table[table["column"] == "lesion MAE"].set_index("row")
    assert set(ours["source"]) == {"CT perfusion to DWI"} and (ours["this_run"] > 0).all() and len(ours) == 4

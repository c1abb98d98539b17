"""The run's folder: names, atomic writes, hashes, and which notebook makes what."""

import hashlib

import pytest

from dsa_lib.run import artifacts
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import Workspace, atomic_write, runs_folder, sha256


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "elsewhere"))
    return Workspace("mine")


def test_the_runs_folder_can_be_moved(ws, tmp_path):
    assert ws.root == tmp_path / "elsewhere" / "mine" == runs_folder() / "mine"
    assert ws.path("samples/reader/manifest.parquet").parent.is_dir()
    assert ws.checkpoints("ldm").is_dir()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "a b"])
def test_run_names_that_are_no_folder_are_refused(name):
    with pytest.raises(StudyError, match="run name"):
        Workspace(name)


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()


def test_sha256_of_a_folder_sees_content_and_names_but_not_order_or_dot_files(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        for part in ("b", "a") if name == "one" else ("a", "b"):
            (folder / "sub").mkdir(parents=True, exist_ok=True)
            (folder / "sub" / part).write_text(part)
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    (tmp_path / "two" / ".cache").write_text("x")
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a").rename(tmp_path / "two" / "sub" / "c")
    assert sha256(tmp_path / "one") != sha256(tmp_path / "two")


def test_atomic_write_replaces_only_on_success(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_private_folders_and_files_open_to_their_owner_alone(ws):
    ws.path("private/old.txt").parent.chmod(0o755)  # as an earlier version made it
    path = ws.private("curation/F1.json")
    for written in (path, ws.private("key.hex"), ws.path("shared.json")):
        with atomic_write(written) as temporary:
            temporary.write_text("x")
    modes = {str(item.relative_to(ws.root)): item.stat().st_mode & 0o777 for item in ws.root.rglob("*")}
    assert (modes["private"], modes["private/curation"]) == (0o700, 0o700)
    assert (modes["private/curation/F1.json"], modes["private/key.hex"]) == (0o600, 0o600)
    assert (
        modes["shared.json"] & 0o044 == 0o044 and ws.root.stat().st_mode & 0o077
    )  # the rest stays as the system makes it


def test_atomic_write_replaces_folders(tmp_path):
    path = tmp_path / "model"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [item.name for item in path.iterdir()] == ["second"]


@pytest.mark.parametrize(
    "artifact, notebook",
    [
        ("archive", "00_phantom_archive"),
        ("frames.npy", "01_curation"),
        ("tables/paper_scale_table1.csv", "31_paper_numbers"),
        ("figures/paper_scale_figure1.png", "31_paper_numbers"),
        ("tables/table1.csv", "02_classifier"),
        ("figures/figure1.png", "02_classifier"),
        ("latents/mean.npy", "03_vae"),
        ("ldm_unconditional", "04_ldm"),
        ("samples/fid", "05_sampling"),
        ("tables/table4.csv", "06_reader_analysis"),
        ("tables/reconstructed_table2.csv", "31_paper_numbers"),
        ("tables/table5.csv", "07_fid"),
        ("tables/table5_context.csv", "07_fid"),
        ("fidelity_resampled.csv", "07_fid"),
        ("features/held-out.npy", "07_fid"),
        ("adherence.csv", "11_condition_adherence"),
        ("plausibility.csv", "12_vessel_plausibility"),
        ("figures/plausibility_spectra.png", "12_vessel_plausibility"),
        ("figures/memorisation_pairs_pixels.png", "13_memorisation"),
        ("utility.csv", "14_utility"),
        ("report.html", "90_report"),
    ],
)
def test_every_artifact_names_the_notebook_that_writes_it(ws, artifact, notebook):
    assert ws.producer(artifact) == notebook
    assert notebook in EVERY


def test_an_artifact_nobody_writes_is_refused(ws):
    with pytest.raises(StudyError, match="no notebook writes"):
        ws.producer("nothing.bin")


def test_a_run_of_the_earlier_layout_is_refused_in_one_sentence_and_left_as_it_is(ws):
    """Its manifests have no layout, whichever of its notebooks ran."""
    path = ws.manifest_path("01_curation")
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"notebook": "01_curation", "status": "finished", "reason": null, "inputs": {}, "outputs": {}, "facts": {}}'
    )
    before = path.read_bytes()
    for look in (ws.check_layout, lambda: ws.manifest("01_curation")):
        with pytest.raises(
            StudyError, match=r"earlier version of this project.*choose another RUN.*make clean-run RUN=mine"
        ) as fault:
            look()
        assert "\n" not in str(fault.value)
    assert path.read_bytes() == before
    assert ws.manifest("02_classifier") is None


def test_the_registry_knows_each_artifact_once_and_no_other_notebook():
    lines = artifacts.registry()
    assert len({line.artifact for line in lines}) == len(lines)
    assert {line.notebook for line in lines} == set(EVERY)
    assert [line.notebook for line in lines] == sorted((line.notebook for line in lines), key=EVERY.index)
    assert artifacts.find("latents/mean.npy").notebook == "03_vae" and artifacts.find("no/such.csv") is None
    assert (
        artifacts.find("figures/figure4a.png").title == "" and "Figure 4" in artifacts.find("figures/figure4.png").title
    )
    assert set(artifacts.UPSTREAM) == set(EVERY)
    for notebook, above in artifacts.UPSTREAM.items():
        assert all(EVERY.index(name) < EVERY.index(notebook) for name in above)

"""Opening and closing a notebook: parameters checked, artifacts verified, manifests that change only when results do."""

import json
import types

import pytest

from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import begin, declared_parameters
from dsa_lib.run.workspace import Workspace


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    return tmp_path


def opened(notebook, **parameters):
    """A notebook as it stands after papermill injected `parameters`."""
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    defaults = {"run": "t", "profile": "smoke", "archive": "", "overrides": {}, "annotations": "", "classifier": ""}
    return begin(notebook, {**defaults, **parameters, "In": ["", "x = 1", injected]})


def written(notebook, name, text, reads=()):
    study = opened(notebook)
    for each in reads:
        study.read(each)
    study.write(name).write_text(text)
    study.finish()


def test_parameters_are_read_from_the_tagged_cell():
    declared = declared_parameters("04_ldm")
    assert {"run": "str", "profile": "str", "archive": "str", "overrides": "dict"}.items() <= declared.items()


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"clasifier": "x"}, "did you mean 'classifier'"),
        ({"run": 7}, "papermill's -r"),
        ({"overrides": [1]}, "type dict"),
        ({"profile": "large"}, "smoke, phantom, paper"),
        ({"overrides": {"diffusion.batch": 3}}, "diffusion.batch"),
        ({"archive": "no/such/folder"}, "not a folder"),
        ({"run": "../elsewhere"}, "run name"),
    ],
)
def test_wrong_parameters_stop_the_notebook_before_it_works(runs, parameters, words):
    with pytest.raises(StudyError, match=words):
        opened("02_classifier", **parameters)
    assert not list(runs.iterdir())


def test_names_that_the_notebook_defines_itself_are_no_parameters():
    study = begin(
        "02_classifier", {"run": "t", "profile": "smoke", "overrides": {}, "helper": 3, "In": ["", "helper = 3"]}
    )
    assert study.run == "t" and study.archive is None


def test_overrides_reach_the_profile_as_mapping_or_json():
    assert opened("04_ldm", overrides={"diffusion.batch_size": 2}).profile.diffusion.batch_size == 2
    assert opened("04_ldm", overrides='{"diffusion.batch_size": 2}').profile.diffusion.batch_size == 2


def test_opening_prints_where_results_come_from(capsys):
    opened("04_ldm")
    out = capsys.readouterr().out
    assert all(word in out for word in ("04_ldm", "run t", "profile smoke", "torch", '"run": "t"'))


def test_a_missing_artifact_names_the_notebook_to_run():
    with pytest.raises(StudyError, match=r"frames\.npy is missing: run notebooks/01_curation\.ipynb"):
        opened("02_classifier").read("frames.npy")


def test_a_changed_artifact_is_refused():
    written("01_curation", "frames.npy", "a")
    assert opened("02_classifier").read("frames.npy").read_text() == "a"
    Workspace("t").path("frames.npy").write_text("b")
    with pytest.raises(StudyError, match=r"frames\.npy has changed since 01_curation wrote it"):
        opened("02_classifier").read("frames.npy")


def test_an_artifact_made_from_older_inputs_is_stale_however_far_upstream():
    written("01_curation", "frames.npy", "a")
    written("02_classifier", "arterial.parquet", "x", reads=["frames.npy"])
    written("03_vae", "vae", "w", reads=["arterial.parquet"])
    assert opened("04_ldm").read("vae")
    written("01_curation", "frames.npy", "another archive")
    with pytest.raises(
        StudyError, match=r"stale: frames\.npy has been regenerated since; run notebooks/02_classifier\.ipynb again"
    ):
        opened("04_ldm").read("vae")
    written("02_classifier", "arterial.parquet", "y", reads=["frames.npy"])
    with pytest.raises(StudyError, match=r"run notebooks/03_vae\.ipynb again"):
        opened("04_ldm").read("vae")
    written("03_vae", "vae", "w", reads=["arterial.parquet"])
    assert opened("04_ldm").read("vae")


def test_upstream_made_again_with_equal_results_leaves_nothing_stale():
    written("01_curation", "frames.npy", "a")
    written("02_classifier", "arterial.parquet", "x", reads=["frames.npy"])
    before = Workspace("t").manifest_path("01_curation").read_bytes()
    written("01_curation", "frames.npy", "a")
    assert Workspace("t").manifest_path("01_curation").read_bytes() == before  # no times, no machine
    assert opened("03_vae").read("arterial.parquet")


def test_skipping_ends_the_notebook_quietly_and_is_passed_on(capsys):
    with pytest.raises(SystemExit) as ended:
        opened("02_classifier").skip("one series is not enough to train.")
    assert ended.value.code == 0
    assert "02_classifier skipped: one series is not enough" in capsys.readouterr().out
    below = opened("03_vae")
    why = below.skipped_upstream("arterial.parquet")
    assert why == "arterial.parquet was not made: one series is not enough to train."
    with pytest.raises(SystemExit):
        below.skip(why)
    # The first cause stays readable all the way down.
    assert opened("04_ldm").skipped_upstream("vae") == "vae was not made: one series is not enough to train."
    with pytest.raises(StudyError, match="because 03_vae was skipped"):
        opened("04_ldm").read("vae")


def test_a_skipped_notebook_may_leave_some_outputs():
    study = opened("02_classifier")
    study.write("phases.parquet").write_text("p")
    with pytest.raises(SystemExit):
        study.skip("no frame is arterial.")
    below = opened("03_vae")
    assert below.has("phases.parquet") and below.skipped_upstream("phases.parquet") is None
    assert below.read("phases.parquet").read_text() == "p"
    assert below.skipped_upstream("arterial.parquet")


def test_a_declared_output_must_exist():
    study = opened("02_classifier")
    study.write("arterial.parquet")
    with pytest.raises(StudyError, match=r"declared arterial\.parquet and did not write it"):
        study.finish()
    assert Workspace("t").manifest("02_classifier") is None


def test_training_belongs_to_its_profile_sections_to_what_was_read_and_to_its_code(tmp_path):
    source = tmp_path / "model.py"
    source.write_text("a = 1")
    module = types.ModuleType("model")
    module.__file__ = str(source)

    def digest(read=True, **parameters):
        study = opened("02_classifier", **parameters)
        if read:
            study.read("frames.npy")
        return study.digest("classifier", code=[module])

    written("01_curation", "frames.npy", "a")
    first = digest()
    assert digest(overrides={"readers.bootstrap": 10}) == first
    assert digest(read=False) != first
    assert digest(overrides={"classifier.steps": 3}) != first
    source.write_text("a = 2")
    assert digest() != first


@pytest.mark.parametrize("kind", ["file", "folder", "absent"])
def test_paths_of_the_user_reach_provenance_as_fingerprints(tmp_path, capsys, kind):
    path = tmp_path / "of_Mueller" / "Mueller_marks.csv"
    path.parent.mkdir()
    given = {"file": path, "folder": path.parent, "absent": path.with_name("Mueller_2.csv")}[kind]
    path.write_text("abc")
    written("01_curation", "frames.npy", "a")
    study = opened("02_classifier", annotations=str(given), classifier="t")
    study.write("arterial.parquet").write_text("a")
    study.finish()
    record = Workspace("t").path("provenance/02_classifier.json").read_text()
    out = capsys.readouterr().out
    assert "Mueller" not in record + out and str(tmp_path) not in record + out
    parameters = json.loads(record)["parameters"]
    assert parameters["classifier"] == "t"  # a run is named, not fingerprinted
    if kind == "file":
        assert parameters["annotations"] == "file sha256:ba7816bf8f01"  # FIPS 180-2, example "abc"
        assert parameters["annotations"] in out
    elif kind == "folder":
        assert parameters["annotations"].startswith("folder sha256:")
    else:
        assert parameters["annotations"] == "a path at which nothing lies"


def test_the_archive_path_stays_out_of_provenance(tmp_path):
    folder = tmp_path / "Patient_Mueller"
    folder.mkdir()
    study = opened("01_curation", archive=str(folder))
    study.write("frames.npy").write_text("a")
    study.finish()
    ws = Workspace("t")
    kept = ws.manifest_path("01_curation").read_text() + ws.path("provenance/01_curation.json").read_text()
    assert "Mueller" not in kept
    assert json.loads(ws.path("provenance/01_curation.json").read_text())["parameters"]["run"] == "t"

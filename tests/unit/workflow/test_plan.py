"""What the workflow thinks a notebook depends on: enough to never keep a stale result, not so much that a reader's change trains a model again."""

import ast
import os
import subprocess
import sys

import pytest

from dsa_lib.run.artifacts import AUDITS, EVERY, REPRODUCED
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.workspace import PROJECT

sys.path.insert(0, str(PROJECT / "workflow"))
import plan as workflow


def planned(overrides=None, archive=None, given=None, profile="smoke", parts=()):
    overrides = overrides or {}
    return workflow.plan("t", load_profile(profile, overrides), overrides, archive, given or {}, parts)["notebooks"]


def changed(first, second):
    return {name for name in first if name in second and first[name]["decides"] != second[name]["decides"]}


def test_notebooks_depend_on_the_modules_they_import_and_on_no_other():
    ldm = workflow.modules_of("04_ldm")
    assert {"ldm.diffusion", "ldm.text", "nn.training", "core.condition_sentences"} <= set(ldm)
    assert not {"readers", "report", "fidelity", "phantom"} & {module.partition(".")[0] for module in ldm}
    assert {"readers.tables", "readers.reliability", "figures.reader_study"} <= set(
        workflow.modules_of("06_reader_analysis")
    )
    of_run = {module for name in EVERY for module in workflow.modules_of(name) if module.startswith("run.")}
    assert of_run == {"run.shards"}


# What notebooks besides that of the phantom ask of it.
OF_PHANTOM = {
    "03_vae": "truth",  # frames without noise
    "21_maps_and_edges": "truth",  # label maps
    "23_lesion_post_training": "lesion_archive",
    "24_peripheral_and_sentences": "truth",  # where arteries are peripheral
}


def test_phantom_is_imported_by_its_own_notebook_alone():
    """The same code must read a phantom and a real archive: nothing downstream of DICOM may know which it was."""
    for name in REPRODUCED[1:]:
        if name not in OF_PHANTOM:
            assert not [m for m in workflow.modules_of(name) if m.split(".")[0] == "phantom"], name


@pytest.mark.parametrize("name, module", OF_PHANTOM.items())
def test_the_phantom_is_asked_only_where_there_is_no_other_archive(name, module):
    tree = ast.parse((PROJECT / "notebooks" / "py" / f"{name}.py").read_text())
    choices = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    guarded = [line for node in choices if "study.archive is None" in ast.unparse(node.test) for line in node.body]
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module.startswith("dsa_lib.phantom")]
    assert [ast.unparse(n) for n in imports] == [f"from dsa_lib.phantom import {module}"]
    assert imports[0] in guarded


def test_imports_are_followed_through_packages_and_relative_names():
    assert workflow._imports("from . import style\nfrom .style import apply", "figures") >= {"figures", "figures.style"}
    assert workflow._imports("import dsa_lib.phantom.body.trees as t") == {
        "phantom",
        "phantom.body",
        "phantom.body.trees",
    }
    assert workflow._imports("%matplotlib inline\nimport numpy") == set()


def test_published_tables_and_the_vocabulary_are_inputs():
    files = planned()["01_curation"]["files"]
    assert any(path.endswith("data_manifests/vessel_terms.csv") for path in files)
    assert any(path.endswith("published/table5.csv") for path in planned()["07_fid"]["files"])


@pytest.mark.parametrize(
    "overrides, notebooks",
    [
        ({"readers.bootstrap": 7}, {"06_reader_analysis"}),
        ({"fidelity.real_images": 7}, {"07_fid"}),
    ],
)
def test_an_override_concerns_the_notebooks_that_read_it(overrides, notebooks):
    assert changed(planned(), planned(overrides)) == notebooks


@pytest.mark.parametrize(
    "overrides, first",
    [
        ({"archive.patients": 7}, "00_phantom_archive"),
        ({"curation.train_fraction": 0.6}, "01_curation"),
        ({"classifier.steps": 3}, "02_classifier"),
        ({"autoencoder.steps": 3}, "03_vae"),
        ({"diffusion.steps_conditional": 3}, "04_ldm"),
        ({"text.layers": 3}, "04_ldm"),
        ({"sampling.steps": 3}, "05_sampling"),
    ],
)
def test_an_override_always_reaches_the_notebook_it_is_for(overrides, first):
    assert first in changed(planned(), planned(overrides))


@pytest.mark.parametrize(
    "override, audits",
    [
        ({"sweep.seeds": 3}, {"11_condition_adherence"}),
        ({"plausibility.images": 8}, {"12_vessel_plausibility"}),
        ({"privacy.gallery": 3}, {"13_memorisation"}),
        ({"utility.steps": 3}, {"14_utility"}),
    ],
)
def test_a_number_of_one_audit_runs_that_audit_alone(override, audits):
    assert changed(planned(parts=["audits"]), planned(override, parts=["audits"])) == audits


def test_a_change_of_one_audit_runs_that_audit_alone():
    modules = {name: workflow.modules_of(name) for name in EVERY}
    for path in (PROJECT / "dsa_lib" / "audits").glob("[a-z]*.py"):
        users = [name for name in EVERY if f"audits.{path.stem}" in modules[name]]
        assert len(users) == 1 and users[0] in AUDITS, (path.stem, users)


def test_seed_and_precision_concern_every_notebook():
    assert changed(planned(), planned({"seed": 1})) == set(REPRODUCED)


def test_an_archive_takes_the_place_of_notebook_00_and_is_watched(tmp_path):
    (tmp_path / "a.dcm").write_text("1")
    first = planned(archive=tmp_path)
    assert "00_phantom_archive" not in first and first["01_curation"]["upstream"] == []
    assert first["01_curation"]["parameters"]["archive"] == str(tmp_path)
    assert changed(first, planned(archive=tmp_path)) == set()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.dcm").write_text("2")
    assert changed(first, planned(archive=tmp_path)) == {"01_curation"}


def test_further_parameters_reach_the_notebooks_that_declare_them(tmp_path):
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("image_id\n")
    found = planned(given={"ratings": str(ratings)})
    assert found["06_reader_analysis"]["parameters"]["ratings"] == str(ratings)
    assert "ratings" not in found["07_fid"]["parameters"]
    ratings.write_text("image_id\n1\n")
    assert changed(found, planned(given={"ratings": str(ratings)})) == {"06_reader_analysis"}
    assert planned(given={"01_curation.workers": 3})["01_curation"]["parameters"]["workers"] == 3
    assert "workers" not in planned(given={"01_curation.workers": 3})["00_phantom_archive"]["parameters"]


@pytest.mark.parametrize(
    "given, words",
    [
        ({"rating": "x"}, "choose .*ratings"),
        ({"run": "x"}, "no notebook has a parameter 'run'"),
        ({"99_none.x": 1}, "no notebook '99_none'"),
        ({"classifier": 3}, "type str"),
        ({"01_curation.workers": True}, "type int"),
    ],
)
def test_unknown_parameters_are_refused(given, words):
    with pytest.raises(StudyError, match=words):
        planned(given=given)


def test_shards_are_for_calls_by_hand():
    with pytest.raises(StudyError, match="for calls by hand"):
        planned(given={"shard": 1})
    with pytest.raises(StudyError, match="for calls by hand"):
        planned(given={"05_sampling.num_shards": 2})


def test_every_folder_of_shipped_weights_runs_again_the_notebooks_that_read_it():
    read = {path for name in EVERY for path in workflow.data_of(workflow.modules_of(name))}
    assert read >= set((PROJECT / "models").glob("*/card.json"))
    assert PROJECT / "models" / "vessels" / "card.json" in workflow.data_of(
        workflow.modules_of("12_vessel_plausibility")
    )
    assert PROJECT / "models" / "vessels" / "card.json" not in workflow.data_of(
        workflow.modules_of("06_reader_analysis")
    )


@pytest.mark.parametrize("name", ["acdc", "21_maps_and_edges.acdc", "ct_perfusion"])
def test_a_folder_of_other_data_that_is_none_is_refused_before_the_study_starts(tmp_path, name):
    command = [sys.executable, "workflow/launch.py", "--run", "t", "--profile", "smoke", "--parts", "extensions"]
    command += ["--parameters", f'{{"{name}": "{tmp_path}/nowhere"}}']
    environment = os.environ | {"DSA_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 2 and said.count("\n") == 0, said
    assert f"data_manifests/schemas/{name.rpartition('.')[2]}.md" in said and not (tmp_path / "runs" / "t").exists()

"""The trained phantom weights that ship: when a run goes on from them, when it is refused, and that the files are what the card says."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dsa_lib.core.conditions import CANONICAL
from dsa_lib.ldm import sampler
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.nn import export, resnet, shipped
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, load_profile
from dsa_lib.run.workspace import sha256

SHIPPED = pytest.mark.skipif(not (shipped.FOLDER / "card.json").exists(), reason="no weights in models/phantom")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of weights with a card, as `ship` writes it: one classifier, trained on patient PHANTOM-1-0001."""
    folder = tmp_path / "weights"
    (folder / "classifier").mkdir(parents=True)
    torch.manual_seed(3)
    model = resnet.build_resnet(PHANTOM.classifier.width, 1)
    half = {name: v.half() if v.is_floating_point() else v for name, v in model.state_dict().items()}
    save_file(half, folder / "classifier" / "model.safetensors")
    (folder / "card.json").write_text(
        json.dumps(
            {
                "run": "weights",
                "shapes": shipped.shapes(PHANTOM),
                "patients": {"train": ["PHANTOM-1-0001"], "val": ["PHANTOM-1-0002"]},
                "files": {"classifier/model.safetensors": sha256(folder / "classifier" / "model.safetensors")},
            }
        )
    )
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder, model


def study(tmp_path, profile=PHANTOM, archive=None, patients=("PHANTOM-2-0001",)):
    pd.DataFrame({"patient_id": list(patients)}).to_parquet(tmp_path / "archive_truth.parquet")
    ws = SimpleNamespace(root=tmp_path)
    return SimpleNamespace(profile=profile, archive=archive, ws=ws, note=lambda key, value: None)


def test_the_phantom_profile_goes_on_from_the_weights(weights, tmp_path, capsys):
    assert shipped.start(study(tmp_path), False) == weights[0]
    assert "Goes on from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("profile", "archive", "from_scratch", "said"),
    [
        (PHANTOM, None, True, "from_scratch is set"),
        (load_profile("smoke"), None, False, "this is smoke"),
        (load_profile("paper"), None, False, "this is paper"),
        (PHANTOM, "an archive", False, "an archive of its own"),
        (load_profile("phantom", {"diffusion.base_channels": 64}), None, False, "diffusion.base_channels differ"),
    ],
)
def test_every_other_run_trains_from_scratch_and_says_why(
    weights, tmp_path, capsys, profile, archive, from_scratch, said
):
    assert shipped.start(study(tmp_path, profile, archive), from_scratch) is None
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("patient", ["PHANTOM-1-0001", "PHANTOM-1-0002"])
def test_a_patient_whom_the_weights_have_seen_is_an_error(weights, tmp_path, patient):
    with pytest.raises(StudyError, match=rf"{patient}.*another seed, or set from_scratch"):
        shipped.start(study(tmp_path, patients=("PHANTOM-2-0001", patient)), False)


def test_a_missing_file_is_named(weights, tmp_path):
    (weights[0] / "classifier" / "model.safetensors").unlink()
    with pytest.raises(StudyError, match=r"classifier/model.safetensors is not the file"):
        shipped.start(study(tmp_path), False)


def test_a_damaged_file_is_named(weights, tmp_path):
    folder, _ = weights
    path = folder / "classifier" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match=r"classifier/model.safetensors is not the file"):
        shipped.start(study(tmp_path), False)


def test_loading_keeps_the_networks_precision(weights):
    folder, original = weights
    model = resnet.build_resnet(PHANTOM.classifier.width, 1)
    shipped.load(model, folder / "classifier")
    for name, value in model.state_dict().items():
        expected = original.state_dict()[name]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


def test_a_continued_stretch_is_short_and_slow(tmp_path):
    whole = {"steps": 1500, "evaluate_every": 75, "learning_rate": 1e-3, "cosine": True, "patience": 3}
    assert shipped.stretch(None, PHANTOM.diffusion, whole) == whole
    found = shipped.stretch(tmp_path, PHANTOM.diffusion, whole)
    assert found["steps"] == PHANTOM.diffusion.steps_continued and found["evaluate_first"]
    assert found["learning_rate"] == pytest.approx(PHANTOM.diffusion.learning_rate * shipped.CONTINUED_RATE)


@SHIPPED
def test_the_shipped_files_are_those_of_the_card_and_small():
    card = shipped.card()
    assert {name: sha256(shipped.FOLDER / name) for name in card["files"]} == card["files"]
    assert sum(p.stat().st_size for p in shipped.FOLDER.rglob("*") if p.is_file()) <= 80 * 2**20
    assert card["shapes"] == shipped.shapes(PHANTOM), (
        "the phantom profile has other shapes: no run would use the weights"
    )


@SHIPPED
def test_no_patient_of_the_default_phantom_archive_was_trained_on():
    plan = plan_archive(PHANTOM.archive, PHANTOM.seed)
    shipped.check_unseen(plan["patient_id"])
    seen = shipped.card()["patients"]["train"]
    assert len(seen) > 100
    with pytest.raises(StudyError, match=seen[0]):
        shipped.check_unseen([*plan["patient_id"], seen[0]])


@SHIPPED
def test_the_shipped_folder_is_a_pipeline():
    pipeline = DSAPipeline.from_pretrained(shipped.FOLDER, torch_dtype=torch.float32)
    pipeline.scheduler = sampler.make_scheduler("dpmsolver++", pipeline.scheduler)
    # Several, since a frame of early filling shows little: its trunk alone.
    frames = pipeline([CANONICAL["AC B"]] * 8, seeds=range(8), num_inference_steps=12)
    size = PHANTOM.curation.image_size
    assert frames.shape == (8, size, size)
    assert abs(float(pd.Series(frames.ravel()).mode()[0]) - PHANTOM.curation.background_grey) <= 3
    dark = (frames < PHANTOM.curation.background_grey - 30).mean(axis=(1, 2))
    assert dark.mean() > 0.005 and (dark > 0).all(), "no vessel in a picture"


def test_weights_of_another_profile_or_of_an_unfinished_run_do_not_ship(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    manifests = tmp_path / "small" / "manifests"
    manifests.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["ship", "small"])
    assert export.main() == 2 and "has not finished notebook 00_phantom_archive" in capsys.readouterr().err
    (manifests / "04_ldm.json").write_text(json.dumps({"profile": "smoke", "status": "finished"}))
    assert export.main() == 2 and "is of profile smoke: only weights of phantom ship" in capsys.readouterr().err

"""The trained weights that ship: when a run goes on from them, when it is refused, how they are written, and that the files are what the cards say."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import sampler
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.lesions import lesion_weights
from dsa_lib.maps import map_weights
from dsa_lib.nn import export, resnet, shipped
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, SMOKE, load_profile
from dsa_lib.run.workspace import LAYOUT, sha256

SETS = {"phantom": shipped, "anatomy": map_weights, "lesions": lesion_weights}
LOG = pd.DataFrame({"step": [4, 8], "train_loss": [2.0, 1.0], "val_loss": [2.5, 1.5]})


def facts(module):
    patients = {"train": ["PHANTOM-1-0001"], "val": ["PHANTOM-1-0002"]}
    return {"run": "w", "shapes": module.shapes(PHANTOM), "patients": patients, "autoencoder": "vae-card", "steps": 8}


def write(module, source, **options):
    parts, logs = {"classifier": source, "notes.txt": source / "notes.txt"}, {"classifier": LOG}
    return export.write(
        module.WEIGHTS, parts, logs, facts(module), lambda card, logs: f"{[*card['files']]} {[*logs]}", **options
    )


@pytest.fixture
def network(tmp_path):
    """A folder with a network in single precision, as a run has it, and the network."""
    torch.manual_seed(3)
    model = resnet.build_resnet(PHANTOM.classifier.width, 1)
    (tmp_path / "net").mkdir()
    save_file(model.state_dict(), tmp_path / "net" / "model.safetensors")
    (tmp_path / "net" / "notes.txt").write_text("kept as it is")
    return SimpleNamespace(model=model, folder=tmp_path / "net")


@pytest.fixture
def written(tmp_path, monkeypatch, network):
    """Each set of weights with one network, that knows PHANTOM-1-0001 and -0002, in a folder of its own: name → card."""
    for name, module in SETS.items():
        monkeypatch.setattr(module.WEIGHTS, "folder", tmp_path / name)
    return {name: write(module, network.folder) for name, module in SETS.items()}


def study(tmp_path, profile=PHANTOM, archive=None, patients=("PHANTOM-2-0001",), started_from="vae-card"):
    pd.DataFrame({"patient_id": list(patients)}).to_parquet(tmp_path / "archive_truth.parquet")
    ws = SimpleNamespace(root=tmp_path, manifest=lambda notebook: {"facts": {"started_from": started_from}})
    notes = {}
    return SimpleNamespace(profile=profile, archive=archive, ws=ws, note=notes.__setitem__, notes=notes)


def start(name, given, patients=("PHANTOM-2-0001",), from_scratch=False, **options):
    """As the notebooks call it: on a phantom archive of these patients, or pairs of theirs."""
    return SETS[name].start(given, *([patients] if name == "lesions" else []), from_scratch, **options)


@pytest.mark.parametrize("name", SETS)
def test_what_is_written_is_read_in_half_precision_with_card_log_and_readme(written, network, name):
    module, card = SETS[name], written[name]
    folder = module.WEIGHTS.folder
    assert card == module.card() and set(card["files"]) == {
        "classifier/model.safetensors", "classifier/notes.txt", "notes.txt", "logs/classifier.jsonl"
    }  # fmt: skip
    assert all(sha256(folder / file) == digest for file, digest in card["files"].items())
    state = network.model.state_dict()
    assert card["parameters"] == {"classifier": sum(value.numel() for value in state.values())}
    half = load_file(folder / "classifier" / "model.safetensors")
    assert {v.dtype for v in half.values() if v.is_floating_point()} == {torch.float16}
    model = resnet.build_resnet(PHANTOM.classifier.width, 1)
    shipped.load(model, folder / "classifier")
    for key, value in model.state_dict().items():
        assert value.dtype == state[key].dtype  # the network keeps its own precision
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-4)
    pd.testing.assert_frame_equal(module.log("classifier"), LOG, check_dtype=False)
    assert (folder / "README.md").read_text() == f"{sorted(card['files'])} ['classifier']"


def test_weights_that_are_too_large_or_beyond_half_precision_do_not_ship(written, network, tmp_path, monkeypatch):
    for module, what in ((map_weights, "the weights"), (lesion_weights, "the lesion weights")):
        monkeypatch.setattr(module.WEIGHTS, "largest_mb", 0.1)
        with pytest.raises(StudyError, match=rf"{what} take 5 MB, more than 0\.1: shrink the networks"):
            write(module, network.folder, folder=tmp_path / "out", what=what)
    assert not (tmp_path / "out").exists()
    weights = load_file(network.folder / "model.safetensors")
    next(iter(value for value in weights.values() if value.is_floating_point())).fill_(1e6)
    save_file(weights, network.folder / "model.safetensors")
    with pytest.raises(StudyError, match=r"model.safetensors of net holds weights beyond half precision"):
        write(shipped, network.folder, folder=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("phantom", "models/phantom, run 'w'"),
        ("anatomy", "models/anatomy, 8 steps each"),
        ("lesions", "models/lesions"),
    ],
)
def test_the_phantom_profile_goes_on_from_them_and_says_so(written, tmp_path, capsys, name, said):
    given = study(tmp_path)
    found = start(name, given)
    assert found == tmp_path / name
    assert given.notes["started_from"] == sha256(found / "card.json") == shipped.digest(found)
    told = capsys.readouterr().out
    assert told == f"Goes on from the trained weights that ship with the project ({said}).\n"


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (SETS, {"from_scratch": True}, "from_scratch is set"),
        (SETS, {"profile": SMOKE}, "this is smoke"),
        (SETS, {"profile": load_profile("paper")}, "this is paper"),
        (["phantom", "anatomy"], {"archive": "an archive"}, "an archive of its own"),
        (["phantom"], {"profile": load_profile("phantom", {"diffusion.base_channels": 64})}, "diffusion.base_channels differ"),
        (["anatomy"], {"profile": load_profile("phantom", {"anatomy.to_latent": "area"})}, "anatomy.to_latent differ"),
        (["anatomy"], {"profile": load_profile("phantom", {"spade.hidden": 8})}, "spade.hidden differ"),
        (["lesions"], {"profile": load_profile("phantom", {"lesions.source_as": "latent"})}, "lesions.source_as differ"),
        (["anatomy"], {"started_from": "nothing"}, "autoencoder of this run did not go on from the one"),
        (["lesions"], {"started_from": "nothing"}, "the run's autoencoder did not go on from that of models/phantom"),
        (["anatomy"], {"other_data": True}, "the images are not frames of this run"),
    ],
)  # fmt: skip
def test_every_other_run_trains_from_scratch_and_says_why(written, tmp_path, capsys, names, options, said):
    how = {key: value for key, value in options.items() if key in ("from_scratch", "other_data")}
    for name in names:
        given = study(tmp_path, **{key: value for key, value in options.items() if key not in how})
        assert start(name, given, **how) is None
        told = capsys.readouterr().out
        assert told.startswith("Trained from scratch: ") and said in told
        assert given.notes["started_from"] == "nothing"
    assert shipped.digest(None) == ""


def test_where_nothing_ships_a_run_trains_from_scratch(tmp_path, monkeypatch, capsys):
    for name, module in SETS.items():
        monkeypatch.setattr(module.WEIGHTS, "folder", tmp_path / name)
        assert start(name, study(tmp_path)) is None
        assert f"models/{name} holds no weights" in capsys.readouterr().out


@pytest.mark.parametrize("patient", ["PHANTOM-1-0001", "PHANTOM-1-0002"])
@pytest.mark.parametrize("name", SETS)
def test_a_patient_whom_the_weights_have_seen_is_an_error(written, tmp_path, name, patient):
    whose = "these pairs" if name == "lesions" else "this archive"
    given = "profile" if name == "lesions" else "archive"
    said = (
        rf"^1 patients of {whose} \(first: {patient}\) were seen in training the weights of models/{name}, so that nothing measured on them would be "
        rf"held out: give the {given} another seed, or set from_scratch$"
    )
    patients = ("PHANTOM-2-0001", patient)
    with pytest.raises(StudyError, match=said):
        start(name, study(tmp_path, patients=patients), patients)


@pytest.mark.parametrize("spoil", ["missing", "damaged"])
@pytest.mark.parametrize("name", SETS)
def test_a_file_that_is_not_as_it_was_is_named(written, tmp_path, name, spoil):
    path = SETS[name].WEIGHTS.folder / "classifier" / "model.safetensors"
    path.unlink() if spoil == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match=rf"models/{name}/classifier/model.safetensors is not the file"):
        start(name, study(tmp_path))


def test_a_network_given_by_hand_is_not_applied_to_patients_it_has_seen(written, tmp_path):
    folder = shipped.WEIGHTS.folder
    with pytest.raises(StudyError, match="PHANTOM-1-0001"):
        shipped.check_given(study(tmp_path, patients=["PHANTOM-1-0001"]), folder / "classifier")
    shipped.check_given(study(tmp_path), folder / "classifier")
    shipped.check_given(study(tmp_path, patients=["PHANTOM-1-0001"]), tmp_path / "net")
    shipped.check_given(study(tmp_path, archive="an archive", patients=["PHANTOM-1-0001"]), folder / "classifier")


def test_a_continued_stretch_is_short_and_slow(tmp_path):
    whole = {"steps": 1500, "evaluate_every": 75, "learning_rate": 1e-3, "cosine": True, "patience": 3}
    assert shipped.stretch(None, PHANTOM.diffusion, whole) == whole
    found = shipped.stretch(tmp_path, PHANTOM.diffusion, whole)
    assert found["steps"] == PHANTOM.diffusion.steps_continued and found["evaluate_first"]
    assert found["learning_rate"] == pytest.approx(PHANTOM.diffusion.learning_rate * shipped.CONTINUED_RATE)


# ---- what ships ------------------------------------------------------------------------------------------------------


def ships(name):
    return pytest.mark.skipif(not (SETS[name].FOLDER / "card.json").exists(), reason=f"no weights in models/{name}")


@pytest.mark.parametrize("name", [pytest.param(name, marks=ships(name)) for name in SETS])
def test_the_shipped_files_are_those_of_the_card_small_and_of_the_profiles_shape(name):
    module, card = SETS[name], SETS[name].card()
    assert {file: sha256(module.FOLDER / file) for file in card["files"]} == card["files"]
    size = sum(path.stat().st_size for path in module.FOLDER.rglob("*") if path.is_file())
    assert size <= {"phantom": 80, "anatomy": 25, "lesions": 15}[name] * 2**20 == module.WEIGHTS.largest_mb * 2**20
    if name != "phantom":
        assert card["autoencoder"] == shipped.digest(shipped.FOLDER), (
            "the weights know the latents of another autoencoder"
        )
    assert card["shapes"] == module.shapes(PHANTOM), (
        "the phantom profile has other shapes: no run would use the weights"
    )


@ships("phantom")
def test_no_patient_of_the_default_phantom_archive_was_trained_on():
    plan = plan_archive(PHANTOM.archive, PHANTOM.seed)
    shipped.check_unseen(plan["patient_id"])
    seen = shipped.card()["patients"]["train"]
    assert len(seen) > 100
    with pytest.raises(StudyError, match=seen[0]):
        shipped.check_unseen([*plan["patient_id"], seen[0]])


@ships("phantom")
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
    (manifests / "04_ldm.json").write_text(json.dumps({"profile": "smoke", "status": "finished", "layout": LAYOUT}))
    assert export.main() == 2 and "is of profile smoke: only weights of phantom ship" in capsys.readouterr().err

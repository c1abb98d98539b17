"""Extractors: what they compute, what they are called, and how weights are found, checked and asked for."""

import functools
import hashlib
import http.server
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from folder_run import with_images

from dsa_lib.core import images as core_images
from dsa_lib.fidelity import dsa_network, features, image_sets, public_features
from dsa_lib.fidelity import extractor as fidelity_extractor
from dsa_lib.nn import public_weights, resnet
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.workspace import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import fid as benchmark


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    resnet.build_resnet(8, 1).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    brightness = rng.integers(60, 200, size=(30, 1, 1))
    return np.clip(brightness + rng.normal(0, 20, (30, 48, 48)), 0, 255).astype(np.uint8)


def test_phase_features_are_stage_means_in_units_of_the_real_spread(classifier, frames):
    extractor = features.phase_extractor(classifier, size=32, batch_size=7, training_frames=frames)
    values = extractor(frames)
    assert values.shape == (30, 8 + 16 + 32) and values.dtype == np.float32
    # Independent: hooks on the stages, numpy afterwards.
    from transformers import ResNetForImageClassification

    model, caught = ResNetForImageClassification.from_pretrained(classifier).eval(), []
    for stage in model.resnet.encoder.stages[:3]:
        stage.register_forward_hook(lambda module, inputs, output: caught.append(output.mean((2, 3)).numpy()))
    with torch.no_grad():
        model(resnet.to_input(frames, 32))
    expected = [(x - x.mean(0)) / np.sqrt(x.var(0, ddof=1).mean()) for x in caught]
    np.testing.assert_allclose(values, np.concatenate(expected, axis=1), atol=2e-3)
    for part in np.split(values, [8, 24], axis=1):
        assert part.var(0, ddof=1).mean() == pytest.approx(1, rel=1e-3)


def test_own_features_are_never_called_fid(classifier, frames):
    extractor = features.open_extractor(
        "phase-network", classifier=classifier, size=32, batch_size=8, training_frames=frames
    )
    assert extractor.distance == "DSA-feature distance"
    with pytest.raises(StudyError, match="not inception, dsa-network, phase-network, dinov2 or radimagenet"):
        features.open_extractor("vgg", classifier=classifier, size=32, batch_size=8, training_frames=frames)
    with pytest.raises(StudyError, match=r"none could be trained: set fidelity\.features to phase-network"):
        features.open_extractor("dsa-network", classifier=classifier, size=32, batch_size=8, training_frames=frames)


def test_dsa_features_are_the_stages_of_the_run_s_dsa_network(frames, tmp_path):
    torch.manual_seed(1)
    model = resnet.build_resnet(8, 2).eval()
    dsa_network.save(model, dsa_network.Facts(("phase", "plane"), {}, {}, 32, 4, 2), tmp_path / "network")
    extractor = features.open_extractor(
        "dsa-network", classifier=tmp_path, size=99, batch_size=8, training_frames=frames, network=tmp_path / "network"
    )
    assert (extractor.name, extractor.distance) == ("dsa-network", "DSA-feature distance")
    with torch.no_grad():  # at the network's own input size, not the classifier's
        first = (
            model.resnet(resnet.to_input(frames, 32), output_hidden_states=True).hidden_states[1].mean((2, 3)).numpy()
        )
    expected = (first - first.mean(0)) / np.sqrt(first.var(0, ddof=1).mean())
    np.testing.assert_allclose(extractor(frames)[:, :8], expected, atol=2e-3)


def test_the_extractor_of_a_run_is_scaled_by_training_frames_and_keeps_what_it_computed(tmp_path):
    study = with_images(tmp_path, profile=load_profile("smoke", {"fidelity.features": "phase-network"}))
    study.ws = SimpleNamespace(checkpoints=lambda name: tmp_path / "checkpoints" / name)
    torch.manual_seed(0)
    resnet.save_classifier(tmp_path / "classifier", resnet.build_resnet(8, 1), {"input_size": 32})
    images = image_sets.of_run(study)
    train = np.sort(images.rows["train"]["frame_id"].to_numpy())
    extractor = features.of_run(study, images.frames, images.training_rows, None)
    expected = features.phase_extractor(
        tmp_path / "classifier", 32, study.profile.fidelity.batch_size, images.frames[train]
    )
    assert extractor.name == "phase-network" and extractor.digest == expected.digest
    values = extractor(images.generated)
    np.testing.assert_array_equal(values, expected(images.generated))
    assert list((tmp_path / "checkpoints" / "features").rglob("*.npy"))


def test_the_dsa_network_of_a_run_is_opened_where_there_is_one(tmp_path):
    study = with_images(tmp_path)
    assert dsa_network.of_run(study) is None
    facts = dsa_network.Facts(("phase", "plane"), {}, {}, 32, 4, 2)
    model = resnet.build_resnet(8, 2).eval()
    dsa_network.save(model, facts, tmp_path / "dsa_network")
    opened, found = dsa_network.of_run(study)
    assert found == facts and all(
        (a == b).all() for a, b in zip(model.parameters(), opened.cpu().parameters(), strict=True)
    )


def test_labels_of_a_run_are_split_by_patient_and_take_the_phase_from_the_classifier(tmp_path):
    study = with_images(tmp_path)
    frames = pd.read_parquet(tmp_path / "arterial.parquet").drop(columns="cell")
    frames.to_parquet(tmp_path / "frames.parquet")
    phases = pd.DataFrame({"frame_id": frames["frame_id"][::-1], "arterial": np.arange(len(frames)) % 2 == 0})
    phases.to_parquet(tmp_path / "phases.parquet")
    parts = dsa_network.labelled_parts(study)
    assert {name: set(rows["patient"]) for name, rows in parts.items()} == {
        "train": {"p0", "p1"},
        "val": {"p2", "p3"},
        "test": {"p4", "p5"},
    }
    called = phases.set_index("frame_id")["arterial"]
    for rows in parts.values():
        assert (rows["arterial"].to_numpy() == called[rows["frame_id"]].to_numpy()).all()


def test_the_run_s_extractor_is_scaled_on_some_of_its_training_frames_alone(classifier, frames, tmp_path, monkeypatch):
    resnet.save_classifier(tmp_path / "classifier", resnet.build_resnet(8, 1), {"input_size": 32})
    monkeypatch.setattr(features, "SCALE_FRAMES", 20)
    read = []

    def study(name):
        settings = SimpleNamespace(features=name, batch_size=8, weights_sha256="")
        profile = SimpleNamespace(fidelity=settings, seed=3)
        ws = SimpleNamespace(checkpoints=lambda folder: tmp_path / "checkpoints" / folder)
        return SimpleNamespace(
            profile=profile, ws=ws, read=lambda artifact: read.append(artifact) or tmp_path / artifact
        )

    altered = frames.copy()
    altered[25:] = 0  # held-out frames, which have no part in the scale
    values = [features.of_run(study("phase-network"), some, np.arange(25), None)(frames) for some in (frames, altered)]
    np.testing.assert_array_equal(*values)
    assert set(read) == {"classifier"}
    drawn = np.sort(np.random.default_rng(3).permutation(25)[:20])
    expected = features.phase_extractor(tmp_path / "classifier", 32, 8, frames[drawn])(frames)
    np.testing.assert_array_equal(values[0], expected)
    read.clear()
    named = features.Extractor("pool3, 8 at once", features.FID, compute=None)
    monkeypatch.setattr(features, "inception_extractor", lambda batch_size: replace(named, batch_size=batch_size))
    assert features.of_run(study("inception"), frames, np.arange(25), None).batch_size == 8 and not read


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), r"uint8 of shape \(4, 8, 8, 3\)"),
        (np.zeros((4, 8, 8), np.uint16), "uint16"),
        (np.zeros((0, 8, 8), np.uint8), "number 0"),
    ],
)
def test_frames_unfit_for_a_network_are_refused(bad, fault):
    with pytest.raises(StudyError, match=fault):
        core_images.check_frames(bad, "generated images")


def test_values_that_are_not_finite_name_the_image():
    extractor = fidelity_extractor.Extractor("broken", "x", lambda x: np.where(x[:, :1, 0] == 9, np.nan, 1.0))
    stack = np.zeros((5, 4, 4), np.uint8)
    stack[3] = 9
    with pytest.raises(StudyError, match=r"1 of 5 images.*image 3"):
        extractor(stack)


def test_the_first_batch_with_a_bad_value_ends_it():
    seen = []

    def compute(images):
        seen.append(len(images))
        return np.where(images[:, :1, 0] == 9, np.inf, 1.0)

    stack = np.zeros((100, 4, 4), np.uint8)
    stack[5] = 9
    with pytest.raises(StudyError, match=r"1 of 4 images.*image 5"):
        fidelity_extractor.Extractor("broken", "x", compute, batch_size=4)(stack)
    assert seen == [4, 4]


def test_images_are_read_a_batch_at_a_time_in_order():
    class Frames:
        shape, dtype, ndim = (50, 4, 4), np.dtype(np.uint8), 3
        asked, held, most = [], 0, 0

        def __len__(self):
            return 50

        def __getitem__(self, rows):
            Frames.asked.append(len(rows))
            Frames.held += 1
            Frames.most = max(Frames.most, Frames.held)
            return np.repeat(np.asarray(rows, np.uint8), 16).reshape(-1, 4, 4)

    def compute(images):
        values = images.reshape(len(images), -1).mean(1, keepdims=True)
        Frames.held -= 1
        return values

    rows = np.arange(49, -1, -3)
    values = fidelity_extractor.Extractor("mean", "x", compute, batch_size=4)(Frames(), rows)
    assert values[:, 0].tolist() == rows.tolist() and values.dtype == np.float32
    assert max(Frames.asked) == 4 and Frames.most <= 2


def test_the_digest_follows_weights_and_preprocessing(classifier, frames, tmp_path):
    def digest(folder=classifier, size=32, training=frames):
        return features.phase_extractor(folder, size=size, batch_size=8, training_frames=training).digest

    torch.manual_seed(1)
    resnet.build_resnet(8, 1).eval().save_pretrained(tmp_path)
    assert digest() == digest()
    assert len({digest(), digest(folder=tmp_path), digest(size=24), digest(training=frames[:20])}) == 4


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file in torch-fidelity's format with random weights."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    benchmark.random_inception(path)
    return path


def test_inception_features_equal_torch_fidelity_on_three_channels(inception_weights, frames):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = np.repeat(np.repeat(frames[:2, ::3, ::3], 16, axis=1), 16, axis=2)  # 256²
    extractor = features.inception_extractor(batch_size=2, weights=inception_weights)
    assert extractor.distance == "FID"
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_weights)
    )
    expected = network(torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1))[0].numpy()
    values = extractor(images)
    assert values.shape == (2, 2048)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_weights_with_code_in_them_are_not_loaded(tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(StudyError, match=r"evil\.pth is not a weights file .*[Ww]eights[ _]only"):
        features.inception_extractor(batch_size=2, weights=tmp_path / "evil.pth")


def test_a_file_that_is_no_inception_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not found")
    for name in ("other.pth", "text.pth", "absent.pth"):
        with pytest.raises(StudyError, match=f"{name} is not a weights file"):
            features.inception_extractor(batch_size=2, weights=tmp_path / name)


@pytest.fixture
def at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_WEIGHTS", str(tmp_path))
    return tmp_path


def normalised(frames, mean, sd):
    """Three equal channels at 224², by Pillow, whose bicubic filter is antialiased too."""
    from PIL import Image

    small = [
        Image.fromarray(frame.astype(np.float32), "F").resize((224, 224), Image.Resampling.BICUBIC) for frame in frames
    ]
    images = np.clip(np.stack([np.asarray(image) for image in small]) / 255, 0, 1)
    return torch.from_numpy(np.stack([(images - m) / s for m, s in zip(mean, sd, strict=True)], axis=1)).float()


def test_dinov2_features_are_the_class_token(at_hand, frames, capsys):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(2)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    network = Dinov2Model(config).eval()
    network.save_pretrained(at_hand / "dinov2-tiny")
    digest = public_weights.sha256(at_hand / "dinov2-tiny" / "model.safetensors")
    extractor = public_features.open_public("dinov2", 2, digest)
    assert "FID" not in extractor.distance and extractor.weights_sha256 == digest and digest in capsys.readouterr().out
    with torch.no_grad():
        images = normalised(frames[:3], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        expected = network(pixel_values=images).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(extractor(frames[:3]), expected, atol=1e-3)
    with pytest.raises(StudyError, match=r"fidelity\.weights_sha256 asks for ff"):
        public_features.open_public("dinov2", 2, "ff")


@pytest.mark.parametrize("published", [True, False])
def test_radimagenet_features_are_the_pooled_output(at_hand, frames, published):
    from torchvision.models import resnet50

    torch.manual_seed(3)
    network = resnet50(weights=None).eval()
    body = torch.nn.Sequential(*list(network.children())[:-1])  # as the published file numbers the children
    state = (
        {f"backbone.{key}": value for key, value in body.state_dict().items()} if published else network.state_dict()
    )
    torch.save(state, at_hand / public_features.RADIMAGENET_FILE)
    extractor = public_features.open_public("radimagenet", 2)
    with torch.no_grad():
        expected = body(normalised(frames[:2], (0.5,) * 3, (0.5,) * 3)).flatten(1).numpy()
    values = extractor(frames[:2])
    assert values.shape == (2, 2048) and extractor.weights_sha256 and "FID" not in extractor.distance
    np.testing.assert_allclose(values, expected, rtol=2e-2, atol=2e-3 * np.abs(expected).max())


def test_public_weights_that_are_absent_or_unfit_are_asked_for_by_name(at_hand):
    with pytest.raises(StudyError, match=r"one folder dinov2-….*holds none: put the model there"):
        public_features.open_public("dinov2", 2)
    with pytest.raises(StudyError, match=r"need radimagenet-resnet50\.pt .*under this name"):
        public_features.open_public("radimagenet", 2)
    (at_hand / "dinov2-a").mkdir()
    with pytest.raises(StudyError, match=r"has no model\.safetensors"):
        public_features.open_public("dinov2", 2)
    (at_hand / "dinov2-b").mkdir()
    with pytest.raises(StudyError, match="holds 2 of them"):
        public_features.open_public("dinov2", 2)
    torch.save({"conv1.weight": torch.zeros(1)}, at_hand / public_features.RADIMAGENET_FILE)
    with pytest.raises(StudyError, match="not the state dict of a ResNet-50"):
        public_features.open_public("radimagenet", 2)


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A registry with one file `net.pth`, whose bytes must be b"right", and an empty weights folder."""
    row = {
        "name": "net",
        "file": "net.pth",
        "sha256": hashlib.sha256(b"right").hexdigest(),
        "url": "https://weights.invalid/x",
    }
    (tmp_path / "data_manifests").mkdir()
    pd.DataFrame([row | {"used_for": "a test"}]).to_csv(tmp_path / "data_manifests" / "public_weights.csv", index=False)
    monkeypatch.setattr(public_weights, "PROJECT", tmp_path)
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("DSA_WEIGHTS", str(folder))
    return folder


def test_weights_are_taken_from_the_local_folder_and_checked(listed):
    (listed / "net.pth").write_bytes(b"right")
    assert public_weights.weights_file("net").samefile(listed / "net.pth")
    (listed / "net.pth").write_bytes(b"wrong")
    with pytest.raises(StudyError, match=r"net\.pth is not the file.*delete it"):
        public_weights.weights_file("net")
    with pytest.raises(StudyError, match="no weights 'other'"):
        public_weights.weights_file("other")


def test_weights_that_cannot_be_had_are_asked_for_by_name(listed, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(public_weights.pooch, "retrieve", offline)
    with pytest.raises(StudyError, match=r"could not be downloaded.*put net\.pth .* into"):
        public_weights.weights_file("net")


@pytest.fixture
def served(listed, tmp_path, monkeypatch):
    """The registry's address leads to a folder that a local server hands out."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry = tmp_path / "data_manifests" / "public_weights.csv"
        address = f"http://127.0.0.1:{server.server_port}/x"
        registry.write_text(registry.read_text().replace("https://weights.invalid/x", address))
        yield folder
        server.shutdown()


def test_weights_are_downloaded_once_and_checked(served, listed):
    (served / "x").write_bytes(b"right")
    assert public_weights.weights_file("net").read_bytes() == b"right"
    (served / "x").unlink()
    assert public_weights.weights_file("net").samefile(listed / "net.pth")


def test_a_download_with_another_hash_is_refused_and_not_kept(served, listed):
    (served / "x").write_bytes(b"wrong")
    with pytest.raises(StudyError, match=r"could not be downloaded.*put net\.pth .*sha256"):
        public_weights.weights_file("net")
    assert not list(listed.iterdir())


def test_an_address_without_the_file_is_told(served):
    with pytest.raises(StudyError, match=r"could not be downloaded \(HTTPError\).*put net\.pth"):
        public_weights.weights_file("net")


def test_the_registry_lists_full_hashes():
    listed = pd.read_csv(public_weights.PROJECT / "data_manifests" / "public_weights.csv").set_index("name")
    assert listed["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    # torch's naming rule: a weights file ends in the first eight digits of its hash.
    entry = listed.loc["inception-v3-fid"]
    assert entry["file"].endswith(f"-{entry['sha256'][:8]}.pth")

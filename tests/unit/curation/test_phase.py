"""The classifier against independent references: torchvision's ResNet-18, Pillow's resampling, scikit-learn's scores, hand-worked selections."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import log_loss, precision_score, recall_score

from dsa_lib.curation import phase
from dsa_lib.nn import resnet
from dsa_lib.nn.training import Draws
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Classifier, load_profile

PLAIN = Classifier(crop_fraction=1.0, jitter=0.0)
BACKGROUND = 162 / 255


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return resnet.build_resnet(8, 1).eval()


def test_width_64_is_resnet18_of_torchvision():
    from torchvision.models import resnet18

    torch.manual_seed(1)
    ours, reference = resnet.build_resnet(64, 1).eval(), resnet18(num_classes=1).eval()
    # 11,689,512 parameters as published for 3 channels and 1000 classes
    assert sum(p.numel() for p in resnet18().parameters()) == 11_689_512
    assert sum(p.numel() for p in ours.parameters()) == 11_689_512 - 2 * 7 * 7 * 64 - 1000 * 513 + 513
    for module in ours.modules():  # statistics that are not the trivial ones
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    reference.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)

    def copy(source, conv, norm):
        conv.load_state_dict(source.convolution.state_dict())
        norm.load_state_dict(source.normalization.state_dict())

    copy(ours.resnet.embedder.embedder, reference.conv1, reference.bn1)
    for stage, layer in zip(
        ours.resnet.encoder.stages,
        (reference.layer1, reference.layer2, reference.layer3, reference.layer4),
        strict=True,
    ):
        for block, basic in zip(stage.layers, layer, strict=True):
            copy(block.layer[0], basic.conv1, basic.bn1)
            copy(block.layer[1], basic.conv2, basic.bn2)
            if basic.downsample is not None:
                copy(block.shortcut, basic.downsample[0], basic.downsample[1])
    reference.fc.load_state_dict(ours.classifier[1].state_dict())
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, reference(x), rtol=1e-4, atol=1e-4)


def test_input_is_resized_like_pillow_and_scaled_to_one():
    frame = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    ours = resnet.to_input(frame[None], 32)
    assert ours.shape == (1, 1, 32, 32) and ours.dtype == torch.float32
    reference = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(ours[0, 0].numpy() * 255 - reference).max() <= 1.0
    assert resnet.to_input(np.full((1, 8, 8), 255, np.uint8), 8).max() == 1


def test_stage_features_have_resnet_shapes_and_a_gradient(small):
    x = torch.rand(2, 1, 64, 64, requires_grad=True)
    maps = resnet.stage_features(small, x)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    maps[3].sum().backward()
    assert x.grad.abs().sum() > 0


def test_equation_1():
    labels, logits = np.array([1, 0, 1, 0]), np.array([2.0, -1.0, -0.5, 0.3])
    probability = 1 / (1 + np.exp(-logits))
    ours = phase.bce(torch.tensor(logits), torch.tensor(labels))
    assert float(ours) == pytest.approx(log_loss(labels, probability), rel=1e-5)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(2)
    truth, called = rng.random(200) < 0.4, rng.random(200) < 0.5
    ours = phase.scores(truth, called)
    assert ours["precision"] == pytest.approx(precision_score(truth, called))
    assert ours["recall"] == pytest.approx(recall_score(truth, called))
    assert ours["accuracy"] == pytest.approx((truth == called).mean())
    assert np.isnan(phase.scores(np.array([True]), np.array([False]))["precision"])


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    x = torch.rand(64, 1, 16, 16)
    out = phase.augment(x, Draws(0, 0, range(64)), PLAIN, BACKGROUND)
    same = (out - x).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (out - x.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert 15 < mirrored.sum() < 49


def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    settings = replace(PLAIN, crop_fraction=0.8, jitter=0.2, zoom_out=0.2, contrast_range=0.4, gamma_range=0.3,
                       sharpness_range=0.5, noise_grey=3.0)  # fmt: skip
    x = torch.rand(6, 1, 16, 16)
    whole = phase.augment(x, Draws(3, 7, range(6)), settings, BACKGROUND)
    part = phase.augment(x[4:], Draws(3, 7, range(4, 6)), settings, BACKGROUND)
    torch.testing.assert_close(whole[4:], part)
    assert (whole - x).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert whole.min() >= 0 and whole.max() <= 1


def test_crop_stays_inside_the_frame_and_zooming_out_shows_background():
    x = torch.full((200, 1, 16, 16), 0.2)
    inside = phase.augment(x, Draws(0, 0, range(200)), replace(PLAIN, crop_fraction=0.5), BACKGROUND)
    torch.testing.assert_close(inside, x)
    outside = phase.augment(x, Draws(0, 0, range(200)), replace(PLAIN, zoom_out=1.0), BACKGROUND)
    corners = outside[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert ((corners - BACKGROUND).abs() < 1e-5).any(dim=1).float().mean() > 0.8


def test_contrast_scaling_leaves_the_background_and_spans_its_range():
    x = torch.full((400, 1, 4, 4), BACKGROUND)
    x[:, :, :, 2:] = BACKGROUND - 0.1
    out = phase.augment(x, Draws(1, 0, range(400)), replace(PLAIN, contrast_range=np.log(2)), BACKGROUND)
    deep, shallow = out.amin(dim=(1, 2, 3)), out.amax(dim=(1, 2, 3))
    torch.testing.assert_close(shallow, torch.full_like(shallow, BACKGROUND))
    assert (BACKGROUND - deep).min() == pytest.approx(0.05, abs=0.002)
    assert (BACKGROUND - deep).max() == pytest.approx(0.2, abs=0.005)


def _phases(**series):
    rows = [
        {"series": name, "frame": i, "probability": p} for name, values in series.items() for i, p in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_published_scores_are_those_of_the_paper():
    assert phase.published_scores() == {"precision": 0.92, "recall": 0.89, "accuracy": 0.95}  # §2.2


def test_selection_by_threshold_alone():
    table = _phases(a=[0.1, 0.5, 0.49, 0.9], b=[0.6, 0.2])
    assert phase.select_arterial(table, PLAIN).tolist() == [False, True, False, True, True, False]


def test_contiguous_keeps_the_longest_run_also_in_shuffled_rows():
    settings = replace(PLAIN, contiguous=True)
    table = _phases(a=[0.9, 0.1, 0.6, 0.6, 0.1, 0.9], b=[0.7, 0.1, 0.9], c=[0.1, 0.2])
    expected = [
        False,
        False,
        True,
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]  # b: equal runs, the more probable
    assert phase.select_arterial(table, settings).tolist() == expected
    order = np.random.default_rng(0).permutation(len(table))
    assert phase.select_arterial(table.iloc[order], settings).tolist() == [expected[i] for i in order]


def test_median_removes_a_single_frame_and_closes_a_single_gap():
    table = _phases(a=[0.1, 0.9, 0.1, 0.1, 0.9, 0.2, 0.9, 0.9])
    chosen = phase.select_arterial(table, replace(PLAIN, median_frames=3))
    assert chosen.tolist() == [False, False, False, False, False, True, True, True]


def test_frames_per_series_keeps_the_most_probable():
    table = _phases(a=[0.6, 0.9, 0.8, 0.7, 0.1], b=[0.2, 0.7])
    chosen = phase.select_arterial(table, replace(PLAIN, frames_per_series=2))
    assert chosen.tolist() == [False, True, True, False, False, False, True]


def _frames_of_two_series():
    rows = []
    for name, split, circulation, plane, angle in (
        ("s1", "train", "anterior", "A", 1.0),
        ("s2", "test", "posterior", "B", -88.0),
        ("s3", "test", "anterior", "B", -60.0),
    ):
        rows += [
            {"series": name, "split": split, "frame": i, "circulation": circulation, "plane": plane,
             "primary_angle_deg": angle, "secondary_angle_deg": 0.0} for i in range(4)
        ]  # fmt: skip
    return pd.DataFrame(rows).assign(frame_id=range(12))


def test_arterial_rows_carry_probability_cell_and_sentence():
    frames = _frames_of_two_series()
    phases = frames.assign(probability=np.linspace(0, 1, 12), arterial=[i in (1, 5, 6, 9) for i in range(12)])
    table = phase.arterial_frames(frames, phases)
    assert table["frame_id"].tolist() == [1, 5, 6, 9]
    assert table["cell"].tolist() == ["AC A", "PC B", "PC B", "Others"]
    assert table["probability"].tolist() == pytest.approx([1 / 11, 5 / 11, 6 / 11, 9 / 11])
    assert table["sentence"][1].startswith(
        "This is a posterior DSA scan taken in Plane B, with a primary angle of -90°"
    )
    assert phase.arterial_spans(phases)[1] == "series s2: 2–3 of 4 frames called arterial (counted from 1)"
    assert phase.examples(frames, phases) == ["s2", "s3"]


def test_score_table_and_confusion_count_by_split_and_phase():
    phases = _frames_of_two_series().assign(
        phase=["before_contrast", "arterial", "capillary", "venous"] * 3,
        arterial=[False, True, False, False, False, True, True, False, False, False, False, True],
    )
    labelled = pd.DataFrame({"frame_id": [0, 1, 5, 6], "label": [0.0, 1.0, 1.0, 0.0]})
    table = phase.score_table(phases, labelled).set_index(["reference", "split"])
    truth, windows = "phantom truth, all frames", "annotation windows"
    assert list(table.index) == [(truth, "train"), (truth, "test"), (windows, "train"), (windows, "test")]
    assert table.loc[(truth, "test"), ["tp", "fp", "fn", "tn"]].tolist() == [1, 2, 1, 4]
    assert table.loc[(windows, "test"), ["precision", "recall", "accuracy"]].tolist() == [0.5, 1.0, 0.5]
    counts = phase.confusion(phases)
    assert counts.index.tolist() == ["before_contrast", "arterial", "capillary", "venous"]
    assert counts.to_numpy().tolist() == [[3, 0], [1, 2], [2, 1], [2, 1]]
    assert len(phase.score_table(phases.drop(columns="phase"), labelled.head(0))) == 0


def test_classifier_of_other_grey_values_is_refused(tmp_path, small):
    profile = load_profile("smoke")
    resnet.save_classifier(
        tmp_path / "classifier", small, phase.facts("a", profile, pd.DataFrame({"patient": [], "series": []}))
    )
    resnet.load_classifier(tmp_path / "classifier", profile.curation)
    with pytest.raises(StudyError, match="background_grey 162, these have 128"):
        resnet.load_classifier(tmp_path / "classifier", replace(profile.curation, background_grey=128))


def _toy(n, seed):
    """Frames with a dark disc (arterial) or none, at random places: what ten updates can learn."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(162, 1, (n, 32, 32))
    labels = np.arange(n) % 2
    rows, columns = np.mgrid[:32, :32]
    for i in np.flatnonzero(labels):
        centre = rng.integers(8, 24, 2)
        frames[i][(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 25] = 60
    return frames.clip(0, 255).astype(np.uint8), pd.DataFrame({"frame_id": np.arange(n), "label": labels.astype(float)})


def test_training_learns_is_saved_and_found_again(tmp_path, monkeypatch):
    settings = Classifier(input_size=32, width=8, batch_size=16, learning_rate=3e-3, steps=60)
    frames, rows = _toy(160, 0)
    model, history = phase.train(
        frames,
        rows[:128],
        rows[128:],
        settings,
        162,
        seed=0,
        folder=tmp_path / "checkpoints",
        digest="x",
        log_every_s=99.0,
    )
    assert history["val_loss"].min() < 0.1 < history["val_loss"].iloc[0]  # of the weights that are kept
    fresh, truth = _toy(80, 1)
    probability = phase.predict(model, fresh, 32, batch_size=32)
    assert phase.scores(truth["label"] == 1, probability >= 0.5)["accuracy"] > 0.9

    folder = tmp_path / "runs" / "first" / "classifier"
    resnet.save_classifier(folder, model, {"input_size": 32})
    assert {p.name for p in folder.iterdir()} == {"classifier.json", "config.json", "model.safetensors"}
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    for given in ("first", str(folder), str(folder.parent)):
        assert phase.find_classifier(given) == folder.resolve()
    again, facts = resnet.load_classifier(folder)
    assert facts == {"input_size": 32}
    np.testing.assert_array_equal(phase.predict(again, fresh, 32, batch_size=32), probability)

    with pytest.raises(StudyError, match="'second' is neither"):
        phase.find_classifier("second")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(StudyError, match="does not hold a trained classifier") as fault:
        resnet.load_classifier(folder)
    assert str(tmp_path) not in str(fault.value)

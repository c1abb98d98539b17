"""The DSA network: its labels, augmentation, loss, training, answers and file."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import dsa_network, features
from dsa_lib.fidelity.dsa_network import HEADS, Facts
from dsa_lib.nn.training import Draws
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile


def rows(n, **columns):
    """A table of n arterial frames of one anterior plane-A position; `columns` replace the values."""
    table = {
        "frame_id": np.arange(n),
        "patient": "p",
        "circulation": "anterior",
        "plane": "A",
        "primary_angle_deg": 0.0,
        "secondary_angle_deg": 0.0,
        "arterial": True,
    }
    return pd.DataFrame(table | columns)


def test_classes_are_circulation_by_plane_whatever_the_angle():
    table = pd.DataFrame(
        {
            "circulation": ["anterior", "posterior", "anterior", "posterior", None],
            "plane": ["A", "A", "B", "B", "A"],
            "cell": ["Others", "PC A", "AC B", "Others", "Others"],
        }
    )
    assert dsa_network.classes(table).tolist() == [0, 1, 2, 3, -1]


def test_targets_of_frames_outside_the_arterial_phase_are_their_phase_alone():
    table = rows(
        3,
        circulation=["posterior", "anterior", None],
        plane=["B", "B", "A"],
        primary_angle_deg=[-91.5, -90.0, np.nan],
        arterial=[True, False, True],
    )
    known = dsa_network.targets(table)
    assert list(known.columns) == list(HEADS)
    assert known.iloc[0].tolist() == [1, 1, 1, -91.5, 0]
    assert known.loc[1, "phase"] == 0 and known.loc[1].drop("phase").isna().all()
    assert known.loc[2].isna().tolist() == [False, True, False, True, False]


def test_what_never_differs_cannot_be_learned():
    table = rows(4, plane=["A", "B", "A", "B"], primary_angle_deg=[0.0, -90.0, 0.4, -90.2])
    why = dsa_network.cannot_learn(dsa_network.targets(table))
    assert set(why) == {"phase", "circulation", "primary_angle_deg", "secondary_angle_deg"}
    assert (
        why["circulation"] == "no training frame that is posterior"
        and "spread less than 1°" in why["primary_angle_deg"]
    )
    assert why["phase"] == "no training frame that is not arterial"
    table["primary_angle_deg"] = [0.0, -90.0, 20.0, -90.2]  # within one plane is enough
    assert "primary_angle_deg" not in dsa_network.cannot_learn(dsa_network.targets(table))


def test_an_angle_is_known_to_the_output_of_its_plane_alone():
    table = rows(3, plane=["A", "B", None], primary_angle_deg=[5.0, -80.0, 7.0])
    known = dsa_network._by_output(
        dsa_network.targets(table), ("plane", "primary_angle_deg A", "primary_angle_deg B")
    ).to_numpy()
    np.testing.assert_array_equal(known, [[0, 5, np.nan], [1, np.nan, -80], [np.nan, np.nan, np.nan]])


def test_loss_of_each_output_by_hand_and_masked_where_a_label_is_unknown():
    angle = "primary_angle_deg B"
    facts = Facts(("phase", angle), {angle: -45.0}, {angle: 45.0}, 32, 4, 2)
    assert facts.heads == ("phase", "primary_angle_deg")
    outputs = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.0]], requires_grad=True)
    known = torch.tensor([[1.0, 4.0], [0.0, -120.0], [torch.nan, torch.nan]])
    found = dsa_network.losses(outputs, known, facts)
    # sigmoid(0) = 1/2 against 1; sigmoid(2) against 0.
    assert found["phase"].item() == pytest.approx((np.log(2) + np.log(1 + np.exp(2))) / 2, rel=1e-6)
    # 0° against 4°: 0.4 units, quadratic; −90° against −120°: 3 units, linear.
    assert found[angle].item() == pytest.approx((0.5 * 0.4**2 + 3 - 0.5) / 2, rel=1e-6)
    assert found["loss"].item() == pytest.approx(found["phase"].item() + found[angle].item())
    found["loss"].backward()
    assert outputs.grad[2].tolist() == [0, 0]  # of what is unknown nothing is learned
    nothing = dsa_network.losses(outputs, torch.full((3, 2), torch.nan), facts)["loss"]
    assert nothing.item() == 0 and torch.autograd.grad(nothing, outputs)[0].abs().max() == 0


def test_classes_are_drawn_equally_often_and_other_frames_by_their_share():
    table = rows(10, circulation=["posterior"] + ["anterior"] * 9, arterial=[True] * 6 + [False] * 4)
    weights = dsa_network.frame_weights(table, dsa_network.targets(table), 0.2)
    assert weights[0] == pytest.approx(0.4) and weights[1:6].sum() == pytest.approx(0.4)
    assert weights[6:].sum() == pytest.approx(0.2) and np.ptp(weights[6:]) == 0


def test_augmentation_never_mirrors():
    # A dark spot left of and above the middle: scaled and shifted it stays there, mirrored or turned it would not.
    images = torch.full((200, 1, 64, 64), 0.6)
    images[:, :, 12:18, 8:14] = 0.1
    changed = dsa_network.augment(images, Draws(3, 0, range(200)))
    darkest = changed.flatten(2).argmin(dim=2)[:, 0]
    where_row, where_column = darkest // 64, darkest % 64
    assert (where_row < 32).all() and (where_column < 32).all()
    assert changed.std(dim=0).mean() > 0.01 and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, dsa_network.augment(images, Draws(3, 0, range(200))))


def patterned(n, seed):
    """Frames with a dark bar whose place tells the circulation, whose direction the plane and whose breadth the primary angle; without a bar: not arterial."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(160, 6, size=(n, 32, 32))
    table = rows(
        n,
        circulation=np.where(np.arange(n) % 2, "posterior", "anterior"),
        plane=np.where(np.arange(n) // 2 % 2, "B", "A"),
    )
    breadth = rng.integers(2, 10, n)
    table["primary_angle_deg"] = 6.0 * breadth - 90 * (table["plane"] == "B")
    table["arterial"] = rng.random(n) < 0.8
    for frame, row, width in zip(frames, table.itertuples(), breadth, strict=True):
        place = slice(16 - width, 16) if row.circulation == "anterior" else slice(18, 18 + width)
        if row.arterial:
            frame[(slice(None), place) if row.plane == "A" else (place, slice(None))] -= 80
    return frames.clip(0, 255).astype(np.uint8), table


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    settings = replace(load_profile("smoke").network, steps=150, batch_size=48, learning_rate=3e-3)
    frames, table = patterned(320, 1)
    model, facts, history = dsa_network.train(
        frames, table.iloc[:256], table.iloc[256:], settings, seed=1, folder=folder / "c", digest="x", live=False
    )
    dsa_network.save(model, facts, folder / "network")
    return model, facts, history, folder


def test_every_head_learns_what_the_others_do_not_see(trained):
    _, facts, history, folder = trained
    assert facts.heads == ("phase", "circulation", "plane", "primary_angle_deg")  # the secondary angle never moved
    assert (
        facts.outputs[3:] == ("primary_angle_deg A", "primary_angle_deg B") and facts.centre_deg[facts.outputs[4]] < -40
    )
    model, again = dsa_network.load(folder / "network")
    assert again == facts and model.config.id2label[2] == "plane"
    frames, table = patterned(120, 2)
    found = dsa_network.answers(model, again, frames, what="test frames")
    scores = dsa_network.scores(found, dsa_network.targets(table)).set_index("head")["value"]
    assert (scores[["phase", "circulation", "plane"]] > 0.95).all()
    within = table.groupby("plane")["primary_angle_deg"]
    chance = (table["primary_angle_deg"] - within.transform("mean")).abs().mean()  # of who knows the plane alone
    assert scores["primary_angle_deg"] < chance / 2
    assert found["secondary_angle_deg"].isna().all() and "secondary_angle_deg" not in scores
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]


def test_answers_of_some_rows_are_those_rows(trained):
    model, facts, *_ = trained
    frames, _ = patterned(20, 3)
    some = np.array([2, 5, 11])
    whole = dsa_network.answers(model, facts, frames)
    pd.testing.assert_frame_equal(
        dsa_network.answers(model, facts, frames, some), whole.iloc[some].reset_index(drop=True), atol=1e-5
    )
    probabilities = dsa_network.cell_probabilities(whole)
    assert probabilities.shape == (20, len(CELLS)) and np.allclose(probabilities.sum(axis=1), 1)


def test_cell_probabilities_by_hand():
    found = pd.DataFrame({"circulation": [0.1], "plane": [0.8]})
    assert dsa_network.cell_probabilities(found)[0] == pytest.approx([0.18, 0.02, 0.72, 0.08])  # AC A, PC A, AC B, PC B


def test_the_same_command_continues_and_gives_the_same_network(trained, tmp_path):
    frames, table = patterned(64, 4)
    settings = replace(load_profile("smoke").network, steps=4, batch_size=16)
    how = {"seed": 3, "digest": "x", "live": False}
    one, *_ = dsa_network.train(frames, table, table.iloc[:0], settings, folder=tmp_path / "a", **how)
    other, *_ = dsa_network.train(frames, table, table.iloc[:0], settings, folder=tmp_path / "a", **how)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_frames_that_teach_nothing_and_folders_without_a_network_are_refused(tmp_path):
    frames, _ = patterned(8, 1)
    with pytest.raises(StudyError, match=r"nothing to learn.*larger archive"):
        dsa_network.train(
            frames, rows(8), rows(0), load_profile("smoke").network, seed=1, folder=tmp_path, digest="x", live=False
        )
    with pytest.raises(StudyError, match="does not hold a DSA network"):
        dsa_network.load(tmp_path)


def test_phases_are_those_that_the_classifier_called():
    frames = rows(3).drop(columns="arterial")
    phases = pd.DataFrame({"frame_id": [2, 0, 1], "arterial": [True, False, True], "plane": "x"})
    assert dsa_network.labelled_frames(frames, phases)["arterial"].tolist() == [False, True, True]


def test_distance_in_its_features_grows_with_blur(trained):
    *_, folder = trained
    frames, table = patterned(240, 5)
    arterial = frames[table["arterial"]]
    real, others = arterial[: len(arterial) // 2], arterial[len(arterial) // 2 :]
    extractor = features.dsa_extractor(folder / "network", 64, real)
    reference = fidelity_distances.statistics(extractor(real))

    def distance(sigma):
        images = gaussian_filter(others.astype(float), (0, sigma, sigma)).round().astype(np.uint8)
        return fidelity_distances.frechet_distance(reference, fidelity_distances.statistics(extractor(images)))

    found = [distance(sigma) for sigma in (0, 0.5, 1, 2)]
    assert found == sorted(found) and found[2] > 2 * found[0]  # 0 is the floor: other frames of the same kind

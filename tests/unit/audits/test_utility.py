"""Generated frames as training data: subsets, mixtures, scores and intervals against independent references, resuming, and the shortcut."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from folder_run import FolderRun
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.weightstats import DescrStatsW

from dsa_lib.audits import utility, utility_tasks
from dsa_lib.audits.utility_tasks import ALONE, ALONE_MATCHED, ARMS, DECODED, MATCHED, MIXED, REAL, Pool, Task
from dsa_lib.curation import phase
from dsa_lib.figures import utility as figures
from dsa_lib.nn import resnet
from dsa_lib.nn.training import Draws
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE, load_profile

SIZE = 32
SETTINGS = replace(
    SMOKE.utility, shares=(0.2, 1.0), side_arms=ARMS[2:], side_shares=(0.2,), seeds=2, steps=4, width=4, batch_size=8
)


# --- patients ---------------------------------------------------------------------------------------------------------


def test_patient_subsets_are_nested_and_drawn_anew_by_seed():
    patients = [f"p{number:02d}" for number in range(30) for _ in range(4)]
    subsets = utility_tasks.nested_patients(patients, (0.1, 0.25, 1.0), seed=3)
    assert [len(subsets[share]) for share in (0.1, 0.25, 1.0)] == [3, 8, 30]
    assert set(subsets[0.1]) < set(subsets[0.25]) < set(subsets[1.0]) == set(patients)
    assert subsets == utility_tasks.nested_patients(patients[::-1], (0.1, 0.25, 1.0), seed=3)
    assert len({tuple(utility_tasks.nested_patients(patients, (0.1,), seed)[0.1]) for seed in range(20)}) > 15
    assert len(utility_tasks.nested_patients(["a", "b", "c"], (0.1,), 1)[0.1]) == utility_tasks.LEAST_PATIENTS


def test_a_held_out_patient_in_training_is_refused():
    train = pd.DataFrame({"patient": ["a", "a", "b"], "label": [0, 1, 1]})
    test = pd.DataFrame({"patient": ["c", "c"], "label": [0, 1]})
    assert utility_tasks.cannot_compare("phase", train, test, synthetic=5) is None
    with pytest.raises(StudyError, match="1 patients are in training and test at once"):
        utility_tasks.cannot_compare("phase", train, test.assign(patient=["b", "c"]), synthetic=5)
    assert "no generated" in utility_tasks.cannot_compare("phase", train, test, synthetic=0)
    assert "1 training patient" in utility_tasks.cannot_compare("phase", train[:2], test, synthetic=5)
    assert "held-out frames" in utility_tasks.cannot_compare("phase", train, test[:1], synthetic=5)


def test_rows_are_capped_by_patient_and_keep_their_order():
    table = pd.DataFrame({"patient": list("aaaaabbc"), "frame_id": range(8)})
    some = utility_tasks.at_most(table, 2, seed=1, by="patient")
    assert some["patient"].tolist() == list("aabbc") and some["frame_id"].is_monotonic_increasing
    assert len(utility_tasks.at_most(table, 3, seed=1)) == 3
    assert utility_tasks.at_most(table, 0, seed=1).equals(table)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def shares_drawn(arm, share=0.5):
    """Probability of (class, origin) under the drawing weights: classes 0 (real 6, decoded 4) and 1 (real 3, generated 5)."""
    parts = [np.repeat([0, 1], [6, 3]), np.zeros(4, int), np.ones(5, int)]
    weights = np.split(utility.drawing_weights(parts, arm, 2, share), [9, 13])
    return [
        [float(weight[part == index].sum()) for weight, part in zip(weights, parts, strict=True)] for index in (0, 1)
    ]


@pytest.mark.parametrize(
    ("arm", "class_0", "class_1"),
    [
        (REAL, [0.5, 0, 0], [0.5, 0, 0]),
        (MIXED, [0.5, 0, 0], [0.3, 0, 0.2]),
        (MATCHED, [0.3, 0.2, 0], [0.3, 0, 0.2]),
        (ALONE, [0.5, 0, 0], [0, 0, 0.5]),
        (ALONE_MATCHED, [0, 0.5, 0], [0, 0, 0.5]),
    ],
)
def test_classes_are_drawn_equally_and_a_matched_look_is_equally_frequent_in_both(arm, class_0, class_1):
    found = shares_drawn(arm, share=0.4)
    assert found[0] == pytest.approx(class_0) and found[1] == pytest.approx(class_1)
    if arm in (MATCHED, ALONE_MATCHED):  # decoder's look: decoded and generated together
        assert sum(found[0][1:]) == pytest.approx(sum(found[1][1:]))


def test_control_of_the_matched_look_draws_decoded_frames_in_every_class():
    weights = utility.drawing_weights([np.array([0, 1]), np.array([0, 1]), np.array([1, 1])], DECODED, 2, 0.4)
    assert weights == pytest.approx([0.3, 0.3, 0.2, 0.2, 0, 0])


def test_a_class_that_no_real_patient_shows_is_drawn_only_where_it_was_generated():
    real, none, generated = np.array([0, 0, 2]), np.zeros(0, int), np.array([0, 1, 2])
    assert utility.drawing_weights([real, none, generated], REAL, 3, 0.5) == pytest.approx([0.25, 0.25, 0.5, 0, 0, 0])
    mixed = utility.drawing_weights([real, none, generated], MIXED, 3, 0.5)
    assert mixed == pytest.approx([1 / 12, 1 / 12, 1 / 6, 1 / 6, 1 / 3, 1 / 6])
    with pytest.raises(StudyError, match="no image to train on"):
        utility.drawing_weights([none, none, none], REAL, 2, 0.5)


def test_arms_of_a_task_need_what_they_are_made_of():
    task = made_up_task()
    assert task.arms() == [arm for arm in ARMS if arm != DECODED]  # class 0 alone is decoded
    assert replace(task, decoded=task.real).arms() == list(ARMS)
    assert replace(task, decoded=None).arms() == [REAL, MIXED, ALONE]
    everything = replace(task, synthetic=task.real)  # every class generated: the look tells nothing
    assert everything.arms() == [REAL, MIXED, ALONE]


def test_the_table_of_mixtures_has_every_arm_as_it_draws():
    table = utility.mixtures(0.5)
    assert list(table.index) == list(ARMS) and (table.T.groupby(level=0).sum() == 1).all(axis=None)
    assert tuple(table.loc[MATCHED, "other class"]) == utility.mixture(MATCHED, False, 0.5) == (0.5, 0.5, 0.0)


# --- scores and intervals ---------------------------------------------------------------------------------------------


def test_scores_of_two_classes_equal_scikit_learn_and_auc_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    p = np.clip(0.35 * truth + rng.random(300) * 0.65, 0, 1)
    found = utility.scores(truth, np.stack([1 - p, p], 1), threshold=0.6)
    u = stats.mannwhitneyu(p[truth == 1], p[truth == 0]).statistic
    assert found["auc"] == pytest.approx(u / (truth.sum() * (1 - truth).sum()))
    assert found["f1"] == pytest.approx(f1_score(truth, p >= 0.6))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, p >= 0.6))
    # Davis & Goadrich: precision at each positive, weighted by the recall it adds
    order = truth[np.argsort(-p)]
    precision = np.cumsum(order) / np.arange(1, 301)
    assert found["average_precision"] == pytest.approx(precision[order == 1].mean())


def test_scores_of_four_classes_equal_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 400)
    p = rng.dirichlet(np.ones(4), 400) + 0.3 * np.eye(4)[truth]
    p /= p.sum(1, keepdims=True)
    found = utility.scores(truth, p)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, p, multi_class="ovr", average="macro"))
    assert found["f1"] == pytest.approx(f1_score(truth, p.argmax(1), average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, p.argmax(1)))


def made_up_rows(a, b, metric="auc"):
    rows = [
        {"task": "phase", "share": 0.1, "patients": 3, "arm": arm, "seed": seed, metric: value}
        for arm, values in ((REAL, a), (MIXED, b))
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # pairs are found by seed, not by place


def test_paired_interval_equals_scipy_and_statsmodels():
    rng = np.random.default_rng(2)
    a = rng.normal(0.8, 0.05, 12)
    b = a + rng.normal(0.02, 0.01, 12)
    row = utility.differences(made_up_rows(a, b), "auc").iloc[0]
    reference = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx(tuple(reference))
    assert (row["low"], row["high"]) == pytest.approx(DescrStatsW(b - a).tconfint_mean(0.05))
    assert row["mean"] == pytest.approx((b - a).mean()) and row["seeds"] == 12 and row["arm"] == MIXED


def test_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(3)
    ends = np.array([utility.interval(rng.normal(0.3, 1, 5))[1:] for _ in range(2000)])
    assert ((ends[:, 0] < 0.3) & (ends[:, 1] > 0.3)).mean() == pytest.approx(0.95, abs=0.015)
    assert np.isnan(utility.interval([0.4])[1:]).all() and np.isnan(utility.interval([0.2, 0.2])[1:]).all()


def test_table_of_all_measures_holds_the_paired_differences():
    rows = made_up_rows([0.7, 0.8], [0.75, 0.85]).assign(
        average_precision=0.5, f1=[0.1, 0.2, 0.3, 0.4], balanced_accuracy=0.6
    )
    table = utility.all_differences(rows)
    assert table.loc[("phase", 0.1, 3, MIXED), "auc"] == pytest.approx(0.05)
    f1 = rows.set_index(["arm", "seed"])["f1"]
    assert table["f1"].iloc[0] == pytest.approx((f1[MIXED] - f1[REAL]).mean())


@pytest.mark.parametrize(("shift", "finding"), [(0.05, "a gain"), (-0.05, "a loss"), (0.0, "no difference is shown")])
def test_verdict_follows_the_interval(shift, finding):
    a = np.array([0.80, 0.82, 0.78, 0.81, 0.79])
    b = a + shift + np.array([0.01, -0.01, 0.0, 0.005, -0.005])
    (sentence,) = utility.verdict(made_up_rows(a, b))
    assert sentence.endswith(f"over 5 seeds): {finding}.") and "10% of the patients (3)" in sentence
    assert f"{a.mean():.3f} with real alone" in sentence
    assert "a single seed" in utility.verdict(made_up_rows(a[:1], b[:1]))[0]


# --- the look of the decoder ------------------------------------------------------------------------------------------


class BySharpness(torch.nn.Module):
    """Calls an image arterial when neighbouring pixels hardly differ: the look of a decoder, and nothing of its content."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        rough = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return type("Out", (), {"logits": (100 * (0.03 - rough))[:, None]})


class ByDarkness(BySharpness):
    """Calls an image arterial by its mean grey, which smoothing leaves alone."""

    def forward(self, x):
        return type("Out", (), {"logits": (100 * (0.5 - x.mean(dim=(1, 2, 3))))[:, None]})


def test_shortcut_is_seen_in_a_classifier_that_goes_by_the_look_alone():
    rng = np.random.default_rng(4)
    frames = rng.normal(150, 25, (20, SIZE, SIZE)).clip(0, 255).astype(np.uint8)
    smooth = np.broadcast_to(frames.mean(axis=(1, 2), keepdims=True), frames.shape).astype(np.uint8)
    rows, nobody = np.arange(20), np.full(20, "")
    decoys = tuple(utility_tasks.pool(images, rows, np.zeros(20), nobody, SIZE) for images in (frames, smooth))
    assert utility.shortcut(BySharpness(), decoys, 0.5) == {"false_alarms": 0.0, "false_alarms_decoded": 1.0}
    found = utility.shortcut(ByDarkness(), decoys, 0.5)
    assert found["false_alarms"] == found["false_alarms_decoded"] == 0.0


def test_excess_of_the_shortcut_takes_off_what_decoding_does_to_any_network():
    real = made_up_rows([0.10, 0.12, 0.11], [0.10, 0.11, 0.12], "false_alarms")
    decoded = {REAL: 0.05, MIXED: 0.25}
    noise = np.array([0.01, 0.0, -0.01])
    rows = real.assign(
        false_alarms_decoded=[
            f + decoded[a] + noise[s] * (a == MIXED) for f, a, s in real[["false_alarms", "arm", "seed"]].to_numpy()
        ]
    )
    table = utility.shortcut_table(rows).set_index("arm")
    assert table.loc[MIXED, "shift"] == pytest.approx(0.25) and table.loc[MIXED, "excess"] == pytest.approx(0.20)
    assert table.loc[MIXED, "low"] == pytest.approx(0.20 - stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3))
    assert np.isnan(table.loc[REAL, "excess"])
    without = rows.assign(false_alarms=np.nan, false_alarms_decoded=np.nan)  # only tasks where it is not measured
    assert utility.shortcut_table(without).empty


# --- trainings --------------------------------------------------------------------------------------------------------


def made_up_task(n=24):
    """Class 1 has a dark bar in the middle; generated images are smooth ones of class 1."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % 2
    frames = rng.normal(160, 10, (n, SIZE, SIZE))
    frames[labels == 1, :, 14:18] -= 90
    frames = frames.clip(0, 255).astype(np.uint8)
    train = pd.DataFrame({"frame_id": range(n), "label": labels, "patient": [f"p{i // 2 % 5}" for i in range(n)]})
    test = train.assign(patient=[f"q{i // 2 % 3}" for i in range(n)])
    generated = np.full((6, SIZE, SIZE), 160, np.uint8)
    generated[:, :, 13:17] = 75
    return utility_tasks.phase_task(frames, train, test, generated, SETTINGS, seed=11, decode=lambda x: x // 2 * 2)


def compared(task, folder, **changed):
    settings = replace(SETTINGS, **changed)
    return utility.compare([task], settings, SMOKE.classifier, background_grey=162, seed=11, folder=folder, digest="d")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of all arms: its folder and its rows. Whoever changes the folder works on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, compared(made_up_task(), folder)


def test_no_held_out_image_is_ever_drawn_and_only_the_patients_of_the_share_are(tmp_path, monkeypatch):
    task, seen = made_up_task(), []

    def spy(task, mixed, *rest, **how):
        seen.append(set(mixed.patients) - {""})
        return resnet.build_resnet(4, 1)

    monkeypatch.setattr(utility, "_train", spy)
    rows = compared(task, tmp_path)
    assert set(rows["arm"]) == {REAL, MIXED, MATCHED, ALONE, ALONE_MATCHED}
    for row, patients in zip(rows.itertuples(), seen, strict=True):
        allowed = utility_tasks.nested_patients(task.real.patients, (0.2, 1.0), row.seed)[row.share]
        assert patients == set(allowed) and not patients & set(task.test.patients)


def test_rows_are_complete_and_a_finished_comparison_is_not_trained_again(finished, monkeypatch):
    task, (folder, rows) = made_up_task(), finished
    assert list(rows.columns) == list(utility.COLUMNS)
    counts = rows.groupby(["share", "arm"]).size()
    assert (counts == 2).all() and len(counts) == 5 + 2  # control arms at the small share alone
    assert rows["auc"].between(0, 1).all() and rows["false_alarms"].between(0, 1).all()
    assert rows.loc[rows["arm"] == REAL, "synthetic_images"].eq(0).all()
    assert rows.loc[rows["arm"] == MIXED, "synthetic_images"].eq(6).all()
    assert not [path for path in folder.iterdir() if path.is_dir()]  # checkpoints of finished arms are gone

    def never(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(utility, "fit", never)
    pd.testing.assert_frame_equal(compared(task, folder), rows)
    pd.testing.assert_frame_equal(compared(task, folder, seeds=1), rows[rows["seed"] == 11])
    with pytest.raises(AssertionError, match="trained again"):  # other numbers are another comparison
        compared(task, folder, steps=5)
    darker = replace(task, test=replace(task.test, images=task.test.images // 2))
    with pytest.raises(AssertionError, match="trained again"):  # so are other images
        compared(darker, folder)


def test_an_interrupted_comparison_ends_with_the_same_rows(finished, tmp_path, monkeypatch):
    task, done, (_, rows) = made_up_task(), [], finished
    original = utility.fit

    def killed(*arguments, **options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(options["folder"])
        return original(*arguments, **options)

    monkeypatch.setattr(utility, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        compared(task, tmp_path, seeds=1)
    monkeypatch.setattr(utility, "fit", original)
    pd.testing.assert_frame_equal(compared(task, tmp_path, seeds=1), rows[rows["seed"] == 11])


def test_an_unknown_control_arm_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(StudyError, match=r"names 'synthetic': choose among real \+ synthetic, look matched; "):
        compared(made_up_task(), tmp_path, side_arms=("synthetic",))
    assert not list(tmp_path.iterdir())


def test_training_learns_what_the_images_show(tmp_path):
    rows = compared(
        made_up_task(80), tmp_path, shares=(1.0,), side_shares=(), seeds=1, steps=60, width=8, batch_size=16
    )
    assert rows.set_index("arm").loc[REAL, "auc"] > 0.95


def test_without_flip_a_side_stays_where_it_is():
    x = torch.full((64, 1, SIZE, SIZE), 0.6)
    x[..., 4:8] = 0.1
    sides = [phase.augment(x, Draws(1, 0, range(64)), SMOKE.classifier, 162 / 255, flip=flip) for flip in (False, True)]
    left = [(side[..., :16].mean(dim=(1, 2, 3)) < side[..., 16:].mean(dim=(1, 2, 3))).float().mean() for side in sides]
    assert left[0] == 1 and 0.2 < left[1] < 0.8


def test_view_task_takes_its_labels_from_the_sentence():
    train = pd.DataFrame({"frame_id": range(8), "label": np.arange(8) % 4, "patient": list("aabbccdd")})
    frames = np.zeros((8, SIZE, SIZE), np.uint8)
    task = utility_tasks.view_task(
        frames, train, train.assign(patient="x"), frames[:3], ["PC A", "AC B", "AC A"], SETTINGS, 1
    )
    assert task.synthetic.labels.tolist() == [1, 2, 0] and not task.flip and len(task.classes) == 4


def test_pools_hold_the_network_input_rounded_to_grey_levels():
    frames = np.random.default_rng(6).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    made = utility_tasks.pool(frames, np.array([3, 1]), np.array([1, 0]), np.array(["a", "b"]), SIZE)
    assert made.images.dtype == torch.uint8 and made.images.shape == (2, 1, SIZE, SIZE)
    assert (made.images.float() / 255 - resnet.to_input(frames[[3, 1]], SIZE)).abs().max() <= 0.5 / 255 + 1e-6
    assert isinstance(made, Pool) and isinstance(made_up_task(), Task)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("shares", [0.1, 1.5], "not all in"),
        ("shares", [0.1, 0.1], "twice"),
        ("side_shares", [0.5], "not all among utility.shares"),
        ("synthetic_share", 1.0, "not between 0 and 1"),
        ("seeds", 0, "utility.seeds is 0"),
    ],
)
def test_impossible_settings_are_refused(name, value, fault):
    with pytest.raises(StudyError, match=fault):
        load_profile("smoke", {f"utility.{name}": value})


def test_figures_draw_every_arm(finished):
    _, rows = finished
    figure = figures.gains(
        utility.levels(rows, "auc"), utility.differences(rows, "auc"), rows, "auc", {"arterial phase": "scored"}
    )
    assert len(figure.axes) == 2 and "AUC" in figure.axes[0].get_ylabel()
    assert len(figures.shortcut(utility.shortcut_table(rows), 12, "phantom").axes) == 2
    assert set(figures.STYLES) == set(ARMS)


def test_without_any_task_the_tables_are_empty_and_nothing_fails(tmp_path):
    rows = utility.compare([], SETTINGS, SMOKE.classifier, background_grey=162, seed=1, folder=tmp_path, digest="d")
    assert list(rows.columns) == list(utility.COLUMNS)
    assert utility.verdict(rows) == [] and len(utility.shortcut_table(rows)) == 0


def small_run(folder, labelled):
    n = 24
    frames = pd.DataFrame(
        {
            "frame_id": range(n),
            "patient": [f"p{i // 4}" for i in range(n)],
            "split": ["train"] * 16 + ["test"] * 8,
            "circulation": ["anterior", "posterior"] * (n // 2),
            "plane": ["A", "A", "B", "B"] * (n // 4),
        }
    )
    frames.to_parquet(folder / "frames.parquet")
    if labelled:
        frames.assign(label=np.arange(n) % 3 % 2.0).to_parquet(folder / "labelled.parquet")
    store = np.zeros((n, SIZE, SIZE), np.uint8)
    return FolderRun(folder, archive=folder), store, frames, store[:4], ["AC A", "PC A", "AC B", "PC B"]


def test_tasks_of_a_run_take_labels_from_its_tables(tmp_path):
    (phases, view), reasons = utility_tasks.tasks_of_run(*small_run(tmp_path, labelled=True), SETTINGS)
    assert reasons == [] and phases.against == "annotation windows" and phases.decoded is None
    assert set(phases.real.patients) == {"p0", "p1", "p2", "p3"} and set(phases.test.patients) == {"p4", "p5"}
    assert phases.test.labels.tolist() == [i % 3 % 2 for i in range(16, 24)]
    assert view.test.labels.tolist() == [0, 1, 2, 3] * 2 and view.synthetic.labels.tolist() == [0, 1, 2, 3]


def test_a_run_without_annotations_still_has_the_task_of_the_sentence(tmp_path):
    tasks, reasons = utility_tasks.tasks_of_run(*small_run(tmp_path, labelled=False), SETTINGS)
    assert [task.name for task in tasks] == ["circulation and plane"]
    assert reasons == ["arterial phase: 0 training patient(s) with labelled frames, and at least 2 are needed"]

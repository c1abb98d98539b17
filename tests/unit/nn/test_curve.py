"""The curve of a training that goes on from shipped weights says which weights were kept."""

import pandas as pd
import pytest

from dsa_lib.nn.curve import training_curve

SHIPPED = pd.DataFrame({"step": [1, 50, 100], "train_loss": [0.9, 0.5, 0.3], "val_loss": [0.8, 0.5, 0.4]})


@pytest.mark.parametrize(
    "held_out, said, place",
    [
        ([0.40, 0.42, 0.41], "continued in this run\nkept: the shipped weights", (0, 0.40)),
        ([0.40, 0.35, 0.41], "continued in this run\nkept: step 8", (8, 0.35)),
    ],
)
def test_what_was_kept_is_marked_and_named(held_out, said, place):
    log = pd.DataFrame({"step": [0, 8, 16], "train_loss": [float("nan"), 0.3, 0.2], "val_loss": held_out})
    axis = training_curve(log, "Autoencoder", SHIPPED).axes[1]
    assert axis.get_title() == said and axis.get_legend() is None
    (mark,) = axis.collections
    assert tuple(mark.get_offsets()[0]) == place


def test_without_held_out_patients_the_last_weights_are_kept():
    log = pd.DataFrame({"step": [8, 16], "train_loss": [0.3, 0.2]})
    axis = training_curve(log, "Phase classifier", SHIPPED).axes[1]
    assert axis.get_title().endswith("kept: step 16") and not axis.collections

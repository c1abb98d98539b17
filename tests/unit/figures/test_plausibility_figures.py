"""What the figures of notebook 12 draw and write."""

import matplotlib.pyplot as plt
import numpy as np

from dsa_lib.figures import plausibility


def test_frames_stand_beside_what_was_segmented_in_them():
    frame, classes = np.full((8, 8), 90, np.uint8), np.zeros((8, 8), np.uint8)
    classes[2] = 3
    shown = [("held-out", frame, classes), ("generated", frame + 1, classes)]
    figure = plausibility.overlays({"AC A": shown, "PC B": shown[:1]})
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title(loc="left") for axis in axes[0]] == ["held-out", "", "generated", ""]
    assert [[len(axis.images) for axis in line] for line in axes] == [[1, 2, 1, 2], [1, 2, 0, 0]]
    assert np.array_equal(axes[0, 2].images[0].get_array(), frame + 1)
    assert axes[0, 1].images[1].get_array().count() == 8  # the pixels of a vessel
    assert [line[0].texts[0].get_text() for line in axes] == ["AC A", "PC B"]
    plt.close(figure)


def test_spectra_over_those_of_held_out_frames():
    frequency = np.linspace(0.02, 0.5, 10)
    curves = {name: (frequency, np.full(10, power), 7) for name, power in (("held-out", 4.0), ("training", 4.0), ("generated", 2.0))}  # fmt: skip
    figure = plausibility.spectra(curves, "phantom")
    left, right = figure.axes
    assert [set(line.get_ydata()) for line in right.lines] == [{1.0}, {1.0}, {0.5}]
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "phantom held-out (n = 7)",
        "phantom training (n = 7)",
        "generated (n = 7)",
    ]
    plt.close(figure)

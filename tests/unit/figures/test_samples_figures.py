"""What the figures of samples write beside their boxes and lines."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dsa_lib.figures import samples


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_conditions_are_named_over_the_conditional_images_alone():
    frame = np.zeros((4, 4), np.uint8)
    figure = samples.image_grid(
        [[frame] * 2, [frame] * 2], ["unconditional", "conditional"], ["AC A", "PC B"], titled=1
    )
    named = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in named] == ["AC A", "PC B"]
    assert (
        len({axis.get_subplotspec().rowspan.start for axis in named}) == 1
        and named[0].get_subplotspec().rowspan.start == 1
    )


def test_quality_against_steps_has_a_line_a_sampler_and_the_floor():
    table = pd.DataFrame(
        {
            "sampler": ["ddpm", "ddpm", "ddim"],
            "steps": [5, 20, 5],
            "distance": [3.0, 2.0, 2.5],
            "s_per_image": [1, 4, 1],
        }
    )
    figure = samples.quality_against_steps(table, 0.5, "distance")
    (legend,) = figure.legends
    named = dict(
        zip(
            (key.get_color() for key in legend.get_lines()),
            (text.get_text() for text in legend.get_texts()),
            strict=True,
        )
    )
    lines = {named[line.get_color()]: line for line in figure.axes[0].lines if len(line.get_xdata())}
    assert list(lines["ddpm"].get_xdata()) == [5, 20] and list(lines["ddpm"].get_ydata()) == [3, 2]
    assert set(lines["floor: real frames, other patients"].get_ydata()) == {0.5}

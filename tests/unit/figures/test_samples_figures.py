"""What the figures of samples write beside their boxes and lines."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from torch import nn

from dsa_lib.figures import samples
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import build_unet, noise_schedule
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.text import build_encoder, build_tokenizer
from dsa_lib.run.profiles import SMOKE


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "module, text",
    [(nn.Linear(2000, 1000, bias=False), "2.0 M"), (nn.Linear(30, 50, bias=False), "1.5 k"), (nn.Linear(8, 1), "9"), (None, "0")],
)  # fmt: skip
def test_numbers_of_parameters(module, text):
    assert samples.parameters(module) == text


def test_figure_5_tells_encoder_and_decoder_apart_and_one_layer_from_two():
    tokenizer = build_tokenizer()
    pipeline = DSAPipeline(
        build_autoencoder(SMOKE.autoencoder),
        build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width),
        noise_schedule(SMOKE.diffusion),
        build_encoder(SMOKE.text, len(tokenizer)),
        tokenizer,
    )
    written = [text.get_text() for text in samples.figure5(pipeline).axes[0].texts]
    vae = pipeline.vae
    (encoder,) = [text for text in written if text.startswith("encoder")]
    (decoder,) = [text for text in written if text.startswith("decoder")]
    assert samples.parameters(vae.encoder, vae.quant_conv) in encoder
    assert samples.parameters(vae.decoder, vae.post_quant_conv) in decoder
    parts = sum(
        p.numel()
        for name in ("encoder", "quant_conv", "decoder", "post_quant_conv")
        for p in getattr(vae, name).parameters()
    )
    assert parts == sum(p.numel() for p in vae.parameters())  # nothing is left out or counted twice
    assert any(text.startswith("BERT, 1 layer (") for text in written) and "(0.0" not in "".join(written)


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

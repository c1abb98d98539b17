"""Figures 3 and 5: every count of the reader study is on the figure, and every part of the system with its size."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from torch import nn

from dsa_lib.figures import flow, samples
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
    written = [text.get_text() for text in samples.figure5(pipeline, 7, "ddim").axes[0].texts]
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
    assert any(text.startswith("BERT, 1 layer\n") for text in written)
    assert {"Training", "Sampling", "denoising loop, 7 steps"} <= set(written)
    assert any("ddim, for Eq. 5" in text for text in written)
    assert (
        sum(f"{SMOKE.curation.image_size} × {SMOKE.curation.image_size}" in text for text in written) == 2
    )  # what goes in, what comes out


COUNTS = pd.DataFrame(
    {"generated": [20, 30], "kept": [15, 11], "scored": [13, 11], "mean": [3.25, float("nan")], "sd": [0.5, float("nan")]},
    index=["AC A", "PC B"],
)  # fmt: skip


def test_figure_3_has_the_counts_of_every_stage_and_the_outcome():
    axis = flow.figure3(COUNTS, "simulated ratings").axes[0]
    written = {text.get_text() for text in axis.texts}
    assert {"AC A\n20", "PC B\n30", "kept 26", "rejected 24", "scored 24", "not scored 2"} <= written
    assert {"AC A  3.25 ± 0.50", "PC B  no score"} <= written
    assert "numbers of images; simulated ratings" in written


def test_figure_3_bands_are_as_high_as_their_counts():
    axis = flow.figure3(COUNTS, "simulated ratings").axes[0]
    bars = sorted(bar.get_height() for bar in axis.patches)
    assert bars == pytest.approx([2, 20, 24, 24, 26, 30])
    ends = [band.get_paths()[0].vertices for band in axis.collections]
    last = [path[path[:, 0] == path[:, 0].max(), 1] for path in ends]
    heights = sorted(float(y.max() - y.min()) for y in last)
    assert heights == pytest.approx(sorted([15, 11, 5, 19, 13, 11, 2, 13, 11]))

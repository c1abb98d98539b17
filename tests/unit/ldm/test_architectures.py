"""Profile `paper` builds the published architectures: parameter counts, heads, latent sizes (on the meta device, so nothing is allocated)."""

import pytest
import torch

from dsa_lib.ldm.autoencoder import build_autoencoder, latent_shape
from dsa_lib.ldm.diffusion import build_unet
from dsa_lib.ldm.text import build_encoder, build_tokenizer
from dsa_lib.run.profiles import PAPER, PROFILES


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def attentions(unet):
    """(channels, heads) of every self-attention, wherever it sits."""
    found = set()
    for name, module in unet.named_modules():
        if hasattr(module, "heads") and hasattr(module, "to_q") and not name.endswith("attn2"):
            found.add((module.to_q.in_features, module.heads))
    return found


def test_the_conditional_unet_is_the_papers():
    with torch.device("meta"):
        unet = build_unet(PAPER.diffusion, 3, 64, context=PAPER.text.width)
    assert parameters(unet) == 499_587_203
    assert attentions(unet) == {(448, 14), (896, 28)}
    assert all(channels // heads == 32 for channels, heads in attentions(unet))
    levels = [
        block.attentions[0].transformer_blocks[0].attn1.heads
        for block in unet.down_blocks
        if hasattr(block, "attentions")
    ]
    assert levels == [14, 28, 28]
    cross = {m.to_k.in_features for n, m in unet.named_modules() if n.endswith("attn2")}
    assert cross == {512}
    blocks = {len(m.transformer_blocks) for m in unet.modules() if hasattr(m, "transformer_blocks")}
    assert blocks == {1}


def test_the_unconditional_unet_is_the_papers():
    with torch.device("meta"):
        unet = build_unet(PAPER.diffusion, 3, 64, context=None)
    assert parameters(unet) == 329_667_523
    assert attentions(unet) == {(448, 14), (896, 28)}


def test_the_autoencoder_is_the_papers():
    with torch.device("meta"):
        vae = build_autoencoder(PAPER.autoencoder)
    assert round(parameters(vae) / 1e6, 1) == 53.2
    assert not any(hasattr(module, "to_q") for module in vae.modules()), "no attention anywhere"
    assert latent_shape(PAPER.autoencoder) == (3, 64, 64)


def test_the_sentence_encoder_is_the_papers():
    with torch.device("meta"):
        encoder = build_encoder(PAPER.text, len(build_tokenizer()))
    assert encoder.config.num_hidden_layers == 4 and encoder.config.hidden_size == 512


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_runs_the_same_code(profile):
    """Shapes fit at every size: one forward pass on the meta device."""
    channels, side, _ = latent_shape(profile.autoencoder)
    with torch.device("meta"):
        vae = build_autoencoder(profile.autoencoder)
        unet = build_unet(profile.diffusion, channels, side, context=profile.text.width)
        image = torch.zeros(1, 1, profile.autoencoder.image_size, profile.autoencoder.image_size)
        z = vae.encode(image).latent_dist.mean
        assert z.shape == (1, channels, side, side)
        context = torch.zeros(1, 30, profile.text.width)
        assert unet(z, torch.ones(1, dtype=torch.long), context).sample.shape == z.shape
        assert vae.decode(z).sample.shape == image.shape

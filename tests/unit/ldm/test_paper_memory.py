"""What one training step of notebooks 21 and 23 keeps in memory at the size of profile `paper`, counted on the meta device where nothing is allocated.

Counted are what autograd saves for the way back (every storage once, parameters left out), in single precision, and the state of the training: weights,
gradients, two moments of Adam and the average. All of it fits a GPU of 40 GB with room for what is not counted: the way back, the cache of the allocator,
and the data.
"""

from dataclasses import replace

import pytest
import torch

from dsa_lib.ldm import autoencoder
from dsa_lib.ldm.diffusion import noise_schedule
from dsa_lib.lesions import pix2pix, post_training, translation
from dsa_lib.maps import map_diffusion, spade
from dsa_lib.run.profiles import PAPER

GPU_GB = 40
SIDE = PAPER.autoencoder.image_size
CHANNELS, LATENT, _ = autoencoder.latent_shape(PAPER.autoencoder)


def saved_gb(step, *networks) -> float:
    """GB that autograd keeps while `step()` computes a loss, less what belongs to `networks`."""
    own = {id(p.untyped_storage()) for network in networks for p in (*network.parameters(), *network.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = storage  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values()) / 1e9


def state_gb(network) -> float:
    return 20 * sum(p.numel() for p in network.parameters()) / 1e9


def denoised(model, batch, *given):
    z = torch.zeros(batch, CHANNELS, LATENT, LATENT)
    return lambda: model(z, torch.ones(batch, dtype=torch.long), *given).square().mean()


def test_a_linear_layer_by_hand():
    with torch.device("meta"):
        layer, x = torch.nn.Linear(100, 50), torch.zeros(1000, 100)
        # x (1000 × 100) for the weight's gradient, and the output (1000 × 50) that is squared.
        assert saved_gb(lambda: layer(x).square().mean(), layer) == pytest.approx(4 * (100_000 + 50_000) / 1e9)


def test_the_map_conditioned_denoiser():
    batch = PAPER.anatomy.batch_size
    with torch.device("meta"):
        model = map_diffusion.build(PAPER, 3, CHANNELS, LATENT, SIDE)
        maps = map_diffusion.to_latent(torch.zeros(batch, 3, SIDE, SIDE), LATENT, PAPER.anatomy.to_latent)
        joined = torch.cat([torch.zeros(batch, CHANNELS, LATENT, LATENT), maps], 1)
        context = torch.zeros(
            batch, PAPER.text.max_tokens, PAPER.text.width
        )  # the encoder's own activations are of some thirty words

        def step():
            return model.unet(joined, torch.ones(batch, dtype=torch.long), context).sample.square().mean()

        assert saved_gb(step, model) + state_gb(model) < GPU_GB


def test_spade_with_vae():
    batch = PAPER.anatomy.batch_size
    with torch.device("meta"):
        model = spade.build(PAPER.spade, 3, SIDE, vae=True)
        maps, images = torch.zeros(batch, 3, SIDE, SIDE), torch.zeros(batch, 1, SIDE, SIDE)
        noise = torch.zeros(batch, PAPER.spade.latent)

        def step():
            return spade.losses(model, maps, images, noise, PAPER.spade, None)["loss"]

        assert saved_gb(step, model) + state_gb(model) < GPU_GB


def translator():
    return translation.build(PAPER, 1, CHANNELS, LATENT)


def source(batch):
    return torch.zeros(batch, (SIDE // LATENT) ** 2, LATENT, LATENT)


def test_the_translating_denoiser():
    batch = PAPER.lesions.batch_size
    with torch.device("meta"):
        model = translator()
        step = denoised(model, batch, source(batch))
        assert saved_gb(step, model) + state_gb(model) < GPU_GB


def test_post_training_through_the_decoder():
    """Every timestep with a gradient, the costliest batch: what the decoder keeps does not grow with the batch, and is of one part in the recomputation."""
    settings, schedule = replace(PAPER.post_training, latest=1.0), noise_schedule(PAPER.diffusion)
    with torch.device("meta"):
        model, vae = translator(), autoencoder.build_autoencoder(PAPER.autoencoder).requires_grad_(False)

    def of_decoder(batch, chosen):
        z = torch.zeros(batch, CHANNELS, LATENT, LATENT, device="meta", requires_grad=True)
        images = torch.zeros(batch, 1, SIDE, SIDE, device="meta")
        z_0 = z * 1.0

        def step():
            decoded = post_training.decode(vae, z_0, chosen.decoded_at_once, chosen.checkpointing)
            return (decoded - images).abs().mean()

        return saved_gb(step, vae)

    assert schedule.config.num_train_timesteps == 1000
    batch, at_once = settings.batch_size, settings.decoded_at_once
    plain = of_decoder(batch, replace(settings, checkpointing=False, decoded_at_once=0))
    part = of_decoder(at_once, replace(settings, checkpointing=False, decoded_at_once=0))
    kept = of_decoder(batch, settings)
    with torch.device("meta"):
        whole = saved_gb(denoised(model, batch, source(batch)), model) + state_gb(model) + kept + part
    assert kept + part < plain and whole < GPU_GB


def test_pix2pix():
    batch = PAPER.pix2pix.batch_size
    with torch.device("meta"):
        model = pix2pix.build(PAPER.pix2pix, 1, SIDE)
        image = torch.zeros(batch, 1, SIDE, SIDE)
        u = [torch.zeros(batch, *shape) for shape in model.generator.noise_shapes(SIDE, SIDE)]

        def step():
            made = model.generator(image, u)
            return pix2pix.losses(model, image, image, made, PAPER.pix2pix.l1_weight)["loss"]

        assert saved_gb(step, model) + state_gb(model) < GPU_GB

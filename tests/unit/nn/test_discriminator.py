"""The patch discriminator: each network has the gradient of its own loss alone, it learns, and a training with it resumes bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.ldm.autoencoder import build_autoencoder, latent_shape, training_loss, vae_loss
from dsa_lib.nn.discriminator import PatchDiscriminator, WithDiscriminator
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.profiles import SMOKE

CONFIG = replace(
    SMOKE.autoencoder, crop=0, discriminator_weight=0.5, discriminator_start=0, perceptual_weight=0.0, batch_size=2
)
FRAMES = np.random.default_rng(0).integers(60, 200, (8, 64, 64)).astype(np.uint8)


def _module() -> WithDiscriminator:
    torch.manual_seed(0)
    return WithDiscriminator(build_autoencoder(CONFIG), width=16)


def _gradients(loss: torch.Tensor, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("step", [0, 7])
def test_one_backward_pass_gives_each_network_its_own_gradient(step):
    """Against two backward passes, each with the other network's weights held: what two optimisers would be given."""
    config = replace(CONFIG, discriminator_start=5)
    module, indices = _module(), np.array([1, 4])
    loss = training_loss(FRAMES, np.arange(8), config, None)
    joint = _gradients(loss(module, indices, Draws(3, step, range(2)))["loss"], module)
    x = torch.from_numpy(FRAMES[[1, 4]]).float()[:, None] / 127.5 - 1
    noise = Draws(3, step, range(2)).normal(*latent_shape(config))

    def decoded():
        posterior = module.autoencoder.encode(x).latent_dist
        return module.autoencoder.decode(posterior.mean + posterior.std * noise).sample

    module.discriminator.requires_grad_(False)
    own = vae_loss(module.autoencoder, x, noise, config, None)["loss"]
    if step >= 5:
        own = own - 0.5 * module.discriminator(decoded()).mean()
    expected = _gradients(own, module.autoencoder)
    module.discriminator.requires_grad_(True)
    with torch.no_grad():
        y = decoded()
    hinge = (1 - module.discriminator(x)).clamp_min(0).mean() + (1 + module.discriminator(y)).clamp_min(0).mean()
    theirs = _gradients(0.5 * hinge, module.discriminator)
    for name, value in joint.items():
        part, _, key = name.partition(".")
        reference = (expected if part == "autoencoder" else theirs)[key]
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-6)
    assert len(joint) == len(expected) + len(theirs)


def test_it_learns_to_tell_two_kinds_of_images_apart():
    torch.manual_seed(0)
    network = PatchDiscriminator(16)
    sharp = torch.from_numpy(np.random.default_rng(1).choice([-1.0, 1.0], (4, 1, 32, 32)).astype(np.float32))
    smooth = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert network(sharp).shape == (4, 1, 4, 4)
    module = WithDiscriminator(torch.nn.Identity(), 16)
    optimizer = torch.optim.Adam(module.discriminator.parameters(), 1e-3)
    first = float(module.losses(sharp, smooth)["discriminator"])
    for _ in range(60):
        optimizer.zero_grad()
        losses = module.losses(sharp, smooth)
        losses["discriminator"].backward()
        optimizer.step()
    assert first > 0.8 and float(losses["discriminator"]) < 0.05
    assert float(losses["generator"]) > 0.9  # decoded images are known for what they are


def test_a_sample_is_judged_by_itself():
    torch.manual_seed(0)
    network, x = PatchDiscriminator(16).eval(), torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


def test_a_stopped_training_ends_with_the_same_weights(tmp_path):
    def train(folder, stop=None):
        module = _module()
        loss = training_loss(FRAMES, np.arange(8), replace(CONFIG, discriminator_start=2), None)

        def stopping(model, indices, draws):
            if draws.step == stop:
                raise KeyboardInterrupt
            return loss(model, indices, draws)

        log = fit(
            module, stopping, size=8, steps=5, batch_size=2, learning_rate=1e-3, seed=1, folder=folder, digest="d",
            ema_decay=0.9, checkpoint_every_s=0.0, live=False,
        )  # fmt: skip
        return module.state_dict(), log

    whole, log = train(tmp_path / "a")
    assert {"train_generator", "train_discriminator", "train_kl", "train_l1"} <= set(log.columns)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stop=3)
    resumed, _ = train(tmp_path / "b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    fresh = _module().state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole if name.startswith("discriminator"))

"""The model that is made to copy: trained on a few latents alone it draws nearer to them."""

from dataclasses import replace

import numpy as np
import torch

from dsa_lib import diffusion, planted_copies
from dsa_lib.autoencoder import build_autoencoder
from dsa_lib.pipeline import DSAPipeline
from dsa_lib.profiles import SMOKE

SMALL = replace(SMOKE.autoencoder, image_size=32)  # latents of 8 × 8


def test_training_on_a_few_frames_alone_draws_the_samples_to_them(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    latents = np.stack([np.full((3, 8, 8), level) for level in (-1.5, 1.5)]) + rng.normal(0, 0.1, (2, 3, 8, 8))
    data = diffusion.LatentSet(latents.astype(np.float16), np.full_like(latents, 0.01, np.float16), 1.0)
    pipeline = DSAPipeline(
        build_autoencoder(SMALL).eval(),
        diffusion.build_unet(SMOKE.diffusion, 3, 8, None),
        diffusion.noise_schedule(SMOKE.diffusion),
    )
    settings = replace(SMOKE.privacy, planted_steps=150, planted_learning_rate=3e-3, planted_images=6)
    profile = replace(SMOKE, privacy=settings)

    def away():
        drawn = {}

        def keep(pipe, step, t, tensors):
            drawn["z"] = tensors["latents"]
            return tensors

        pipeline.scheduler = diffusion.sampler("dpmsolver++", pipeline.scheduler)
        pipeline(seeds=range(6), num_inference_steps=8, callback_on_step_end=keep)
        z = drawn["z"].numpy()
        return np.sqrt(((z[:, None] - latents[None]) ** 2).mean((2, 3, 4))).min(axis=1)

    before = away()
    trained = planted_copies.train_to_copy(pipeline, data, profile, tmp_path, "digest")
    assert trained is pipeline
    assert np.median(away()) < 0.5 * np.median(before)
    images = planted_copies.sampled(pipeline, profile)
    assert images.shape == (6, 32, 32) and images.dtype == np.uint8
    assert (images == planted_copies.sampled(pipeline, profile)).all()  # the same images at every call

"""The model that is made to copy: trained on one latent alone it draws that one."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from folder_run import with_images
from scipy.ndimage import gaussian_filter

from dsa_lib.audits import planted_copies
from dsa_lib.ldm import diffusion, sampler
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.run.profiles import SMOKE

SMALL = replace(SMOKE.autoencoder, image_size=32)  # latents of 8 × 8


def test_training_on_one_frame_alone_draws_the_samples_to_it(tmp_path):
    torch.manual_seed(0)
    patterns = gaussian_filter(np.random.default_rng(0).normal(size=(2, 3, 8, 8)), (0, 0, 1.2, 1.2))
    patterns /= patterns.std(axis=(1, 2, 3), keepdims=True)
    latents = patterns[:1]
    data = diffusion.LatentSet(latents.astype(np.float16), np.full_like(latents, 0.01, np.float16), 1.0)
    pipeline = DSAPipeline(
        build_autoencoder(SMALL).eval(),
        diffusion.build_unet(SMOKE.diffusion, 3, 8, None),
        diffusion.noise_schedule(SMOKE.diffusion),
    )
    settings = replace(SMOKE.privacy, planted_steps=200, planted_learning_rate=3e-3, planted_images=6)
    profile = replace(SMOKE, privacy=settings)

    def away():
        drawn = {}

        def keep(pipe, step, t, tensors):
            drawn["z"] = tensors["latents"]
            return tensors

        pipeline.scheduler = sampler.make_scheduler("dpmsolver++", pipeline.scheduler)
        pipeline(seeds=range(6), num_inference_steps=8, callback_on_step_end=keep)
        z = drawn["z"].numpy()
        z = drawn["z"].numpy()
        return np.sqrt(((z[:, None] - patterns[None]) ** 2).mean(axis=(2, 3, 4)))

    trained = planted_copies.train_to_copy(pipeline, data, profile, tmp_path, "digest")
    assert trained is pipeline
    to_learnt, to_other = np.median(away(), axis=0)
    assert to_learnt < 0.6 * to_other, (to_learnt, to_other)
    images = planted_copies.sampled(pipeline, profile)
    assert images.shape == (6, 32, 32) and images.dtype == np.uint8
    assert (images == planted_copies.sampled(pipeline, profile)).all()  # the same images at every call


def test_the_model_of_a_run_learns_frames_of_its_training_patients_alone(tmp_path):
    torch.manual_seed(0)
    privacy = replace(SMOKE.privacy, planted_steps=2, planted_frames=2, planted_images=3)
    sampling = replace(SMOKE.sampling, steps=2)
    study = with_images(tmp_path, profile=replace(SMOKE, privacy=privacy, sampling=sampling))
    assert planted_copies.cannot_plant(study) == "this run has no ldm_unconditional"
    study.ws = SimpleNamespace(checkpoints=lambda name: tmp_path / "checkpoints" / name)
    study.digest = lambda *sections, code: "digest"
    DSAPipeline(
        build_autoencoder(SMALL).eval(),
        diffusion.build_unet(SMOKE.diffusion, 3, 8, None),
        diffusion.noise_schedule(SMOKE.diffusion),
    ).save_pretrained(tmp_path / "ldm_unconditional")
    index = pd.read_parquet(tmp_path / "arterial.parquet")
    index["probability"] = np.linspace(0.5, 1, len(index))
    (tmp_path / "latents").mkdir()
    index.to_parquet(tmp_path / "latents" / "index.parquet")
    for name, value in (("mean", 0.3), ("std", 0.01)):
        np.save(tmp_path / "latents" / f"{name}.npy", np.full((len(index), 3, 8, 8), value, np.float16))
    assert planted_copies.cannot_plant(study) is None
    frames = np.load(tmp_path / "frames.npy")
    learnt, made = planted_copies.model_of_run(study, frames)
    allowed = frames[index.loc[index["split"] == "train", "frame_id"].to_numpy()]
    assert len(learnt) == 2 and all((one == allowed).all(axis=(1, 2)).any() for one in learnt)
    assert made.shape == (3, 32, 32) and made.dtype == np.uint8

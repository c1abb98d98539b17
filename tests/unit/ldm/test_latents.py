"""The store of latents: what is in it, resumed after a kill, re-used for the same weights and frames alone."""

import json
import multiprocessing
import os
import signal
import tracemalloc

import numpy as np
import pytest
import torch

from dsa_lib.ldm import autoencoder, latents
from dsa_lib.ldm.autoencoder import build_autoencoder, latent_shape, to_model
from dsa_lib.run.profiles import SMOKE

CONFIG = SMOKE.autoencoder
SHAPE = latent_shape(CONFIG)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_autoencoder(CONFIG).eval()


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (80, 64, 64)).astype(np.uint8)


def _arrays(folder):
    return [np.load(folder / f"{name}.npy") for name in latents.PARTS]


def _counts(encoded: int, copied: int = 0, resumed: int = 0) -> dict[str, int]:
    return {"resumed": resumed, "copied": copied, "encoded": encoded}


def test_mean_and_std_are_those_of_the_posterior(model, frames, tmp_path):
    rows = np.array([70, 3, 41])
    assert latents.encode(model, frames, rows, SHAPE, tmp_path / "a", tmp_path / "work") == _counts(3)
    mean, std = _arrays(tmp_path / "a")
    with torch.no_grad():
        posterior = model.encode(to_model(frames[rows])).latent_dist
    assert mean.dtype == std.dtype == np.float16 and mean.shape == (3, *SHAPE)
    assert np.allclose(mean, posterior.mean, atol=2e-3) and np.allclose(std, posterior.std, atol=2e-3)


def test_posteriors_in_memory_are_those_of_the_store(model, frames, tmp_path):
    rows = np.arange(79, 9, -1)  # more than one batch, in another order
    latents.encode(model, frames, rows, SHAPE, tmp_path / "a", tmp_path / "work")
    found = latents.posteriors(model, frames, rows)
    for part, stored in zip(found, _arrays(tmp_path / "a"), strict=True):
        assert part.dtype == np.float16 and np.array_equal(part, stored)
    assert latents.posteriors(model, frames[:3], dtype=np.float32)[0].dtype == np.float32


def test_a_store_is_reused_for_the_frames_it_holds_and_no_others(model, frames, tmp_path):
    latents.encode(model, frames, np.arange(50), SHAPE, tmp_path / "a", tmp_path / "work")
    rows = np.array([49, 60, 2, 7])  # another order, and one frame that is not in the store
    counts = latents.encode(model, frames, rows, SHAPE, tmp_path / "b", tmp_path / "work", [tmp_path / "a"])
    assert counts == _counts(1, copied=3)
    first, second = _arrays(tmp_path / "a"), _arrays(tmp_path / "b")
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(b[[0, 2, 3]], a[[49, 2, 7]])
    changed = frames.copy()
    changed[2, 5, 5] ^= 1  # the same row of the archive, other pixels
    assert latents.encode(model, changed, rows, SHAPE, tmp_path / "c", tmp_path / "work", [tmp_path / "a"]) == _counts(
        2, 2
    )


def test_only_verified_stores_of_the_same_weights_are_offered(model, frames, tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    folder, weights = tmp_path / "first" / "latents", latents.weights_digest(model)
    latents.encode(model, frames, np.arange(4), SHAPE, folder, tmp_path / "work")
    assert latents.stores(weights) == [folder]
    # A notebook that was killed after this step encodes nothing again.
    before = np.load(folder / "mean.npy").copy()
    counts = latents.encode(model, frames, np.arange(4), SHAPE, folder, tmp_path / "work", latents.stores(weights))
    assert counts == {"resumed": 0, "copied": 4, "encoded": 0}
    assert np.array_equal(np.load(folder / "mean.npy"), before) and latents.stores(weights) == [folder]
    model.register_to_config(scaling_factor=2.0)  # the scale is no weight
    assert latents.weights_digest(model) == weights
    torch.manual_seed(1)
    assert latents.stores(latents.weights_digest(build_autoencoder(CONFIG))) == []
    damaged = np.load(folder / "std.npy", mmap_mode="r+")
    damaged[0] = 0
    damaged.flush()
    assert latents.stores(weights) == []


def test_a_kill_loses_little_and_ends_in_the_same_bytes(model, frames, tmp_path, monkeypatch):
    """A process is killed while it encodes the third batch; the same call goes on and gives the bytes of a call that was never stopped."""
    monkeypatch.setattr(latents, "BATCH", 16)
    rows = np.arange(80)

    def progress(items):
        for n, item in enumerate(items):
            if n == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    def encode_until_killed():
        torch.set_num_threads(1)  # a forked process has none of the threads that its parent started
        latents.KEPT_EVERY_S = 0.0
        latents.encode(model, frames, rows, SHAPE, tmp_path / "a", tmp_path / "work", progress=progress)

    process = multiprocessing.get_context("fork").Process(target=encode_until_killed)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "a" / "latents.json").exists()
    assert latents.encode(model, frames, rows, SHAPE, tmp_path / "a", tmp_path / "work") == _counts(48, resumed=32)
    latents.encode(model, frames, rows, SHAPE, tmp_path / "b", tmp_path / "other")
    for name in ("mean.npy", "std.npy", "digests.npy", "latents.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_what_is_unfinished_of_other_frames_is_not_taken_up(model, frames, tmp_path):
    def stop(items):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latents.encode(model, frames, np.arange(60), SHAPE, tmp_path / "a", tmp_path / "work", progress=stop)
    counts = latents.encode(model, frames, np.arange(10, 60), SHAPE, tmp_path / "a", tmp_path / "work")
    assert counts == _counts(50)
    assert json.loads((tmp_path / "a" / "latents.json").read_text())["frames"] == 50


def test_memory_does_not_grow_with_the_frames(model, tmp_path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.npy"
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 64, 64))
        stored[:] = np.random.default_rng(1).integers(0, 255, (count, 1, 64))
        stored.flush()
        frames = np.load(path, mmap_mode="r")
        tracemalloc.start()
        latents.encode(model, frames, np.arange(count), SHAPE, tmp_path / f"l{count}", tmp_path / f"w{count}")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(32)
    assert peak(512) < peak(64) + 100 * 448  # a hundred bytes a further frame, where the frame has 4,096


def test_scaled_latents_have_unit_variance(model, frames, tmp_path):
    latents.encode(model, frames, np.arange(6), SHAPE, tmp_path / "a", tmp_path / "work")
    mean, std = _arrays(tmp_path / "a")
    scale = autoencoder.latent_scale(mean, std, autoencoder.scale_rows(np.arange(6), 6))
    rng = np.random.default_rng(1)
    drawn = np.stack([mean + std * rng.standard_normal(mean.shape) for _ in range(20)])
    assert (scale * drawn).std() == pytest.approx(1.0, abs=0.03)
    assert list(autoencoder.scale_rows(np.arange(10, 20), 4)) == [10, 13, 16, 19]


def test_the_standard_deviation_is_the_root_of_the_variance(frames):
    """From the encoder's own output, log σ² = −3 on average, where σ, σ² and log σ² are all apart."""
    torch.manual_seed(1)
    model = build_autoencoder(CONFIG).eval()
    channels = SHAPE[0]
    with torch.no_grad():
        model.quant_conv.bias[channels:] = -3.0
        moments = model.quant_conv(model.encoder(to_model(frames[:2])))
    mean, std = autoencoder.encode(model, frames[:2])
    assert np.allclose(mean, moments[:, :channels], atol=1e-4)
    assert np.allclose(std, np.exp(0.5 * moments[:, channels:].numpy()), atol=1e-4) and std.mean() < 0.5


def test_decoding_takes_off_the_scale_of_the_diffusion():
    torch.manual_seed(1)
    model = build_autoencoder(CONFIG).eval()
    model.register_to_config(scaling_factor=0.4)
    z = torch.randn(2, *SHAPE)
    with torch.no_grad():
        right, wrong = (autoencoder.to_frames(model.decode(each).sample) for each in (z / 0.4, z * 0.4))
    decoded = autoencoder.decode(model, z)
    assert np.abs(decoded.astype(int) - right).max() <= 1 and np.abs(decoded.astype(int) - wrong).max() > 3

"""Several processes, and several batches a step, compute what one process computes on the whole batch."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import autoencoder, diffusion, text
from dsa_lib.nn import resnet, training
from dsa_lib.nn.training import fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE

IMAGES = torch.randn(40, 1, 12, 12, generator=torch.Generator().manual_seed(1))
# Relative differences of curves: they differ by rounding alone, since sums over a batch are taken in another order. In the autoencoder's KL, which hardly
# counts in its loss, that grows from step to step (1e-7 at the first): the gradient of L1 is a sign, which rounding turns where a pixel is met exactly.
TOLERANCE, OF_PARTS = 5e-6, 5e-4


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))


def mirrored(model, indices, draws):
    x = IMAGES[indices] + 0.1 * draws.normal(1, 12, 12)
    return {"loss": (model(x) - IMAGES[indices].flip(-1)).square().mean(), "size": x.abs().mean()}


def autoencoder_parts():
    config = SMOKE.autoencoder
    torch.manual_seed(1)
    network = resnet.build_resnet(SMOKE.classifier.width, 1).eval().requires_grad_(False)
    perceptual = autoencoder.FeatureDistance(lambda x: resnet.stage_features(network, (x + 1) / 2))
    frames = np.random.default_rng(0).integers(0, 256, (30, config.image_size, config.image_size), dtype=np.uint8)
    loss = autoencoder.training_loss(frames, np.arange(30), config, perceptual)
    return (
        lambda: autoencoder.build_autoencoder(config),
        loss,
        autoencoder.validation_loss(frames, np.arange(20, 30), config, perceptual, seed=1),
    )


def diffusion_parts(conditional):
    config, shape = SMOKE.diffusion, autoencoder.latent_shape(SMOKE.autoencoder)
    rng = np.random.default_rng(0)
    mean, std = (rng.random((30, *shape), dtype=np.float32).astype(np.float16) for _ in range(2))
    tokenizer = text.build_tokenizer(SMOKE.text.max_tokens)
    sentences = [condition.sentence() for _, condition in zip(range(30), 8 * list(CANONICAL.values()), strict=False)]
    data = diffusion.LatentSet(mean, std, 1.0, sentences if conditional else None, tokenizer)
    schedule = diffusion.noise_schedule(config)

    def build():
        unet = diffusion.build_unet(config, shape[0], shape[1], SMOKE.text.width if conditional else None)
        if not conditional:
            return diffusion.UnconditionalDenoiser(unet)
        # Without dropout (SMOKE.text.dropout is 0): its masks belong to a process, not to a position.
        encoder = text.build_encoder(SMOKE.text, len(tokenizer))
        return diffusion.ConditionalDenoiser(unet, encoder)

    return build, diffusion.training_loss(data, schedule), diffusion.validation_loss(data, schedule, seed=1)


MODELS = {
    "convolutions": lambda: (convolutional, mirrored, lambda model: {"loss": (model(IMAGES) - IMAGES).abs().mean()}),
    "autoencoder": autoencoder_parts,
    "unconditional diffusion": lambda: diffusion_parts(conditional=False),
    "conditional diffusion": lambda: diffusion_parts(conditional=True),
}


@pytest.fixture(autouse=True)
def one_thread():
    """The processes compute with one thread; the process that they are compared with does so too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(parts, folder, **changes):
    build, loss, validate = parts
    torch.manual_seed(0)
    model = build()
    options = dict(size=30, steps=12, batch_size=6, learning_rate=1e-3, seed=7, folder=folder, digest="d")
    options |= dict(evaluate_every=3, ema_decay=0.9, warmup_steps=3, cosine=True, clip_norm=1.0, validate=validate)
    return model, fit(model, loss, **options | changes)


def agree(a, b):
    assert list(a.columns) == list(b.columns) and len(a) == len(b)
    for name in a.columns:
        tolerance = TOLERANCE if name.endswith("loss") else OF_PARTS
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_and_two_batches_a_step_give_the_curve_of_one(tmp_path, name):
    parts, short = MODELS[name](), {"steps": 6}
    model, one = trained(parts, tmp_path / "one", **short)
    assert one["train_loss"].iloc[-1] != one["train_loss"].iloc[0]
    split, two = trained(parts, tmp_path / "two", processes=2, **short)
    _, gathered = trained(parts, tmp_path / "gathered", accumulate=2, batch_size=3, **short)
    _, both = trained(parts, tmp_path / "both", accumulate=2, batch_size=3, processes=2, **short)  # shares of 1 and 2
    for log in (two, gathered, both):
        agree(one, log)
    largest = max(float(value.abs().max()) for value in model.state_dict().values())
    for a, b in zip(model.state_dict().values(), split.state_dict().values(), strict=True):
        assert float((a - b).abs().max()) < 1e-3 * largest


def test_the_notebooks_own_process_opens_no_device(tmp_path, monkeypatch):
    """It would open a GPU, after which a second training, as notebook 04 has it, could not be forked."""
    here, accelerator = os.getpid(), training._accelerator

    def only_in_children(precision):
        assert os.getpid() != here, "opened in the process of the notebook"
        return accelerator(precision)

    monkeypatch.setattr(training, "_accelerator", only_in_children)
    model, log = trained(MODELS["convolutions"](), tmp_path, processes=2)
    again, same = trained(MODELS["convolutions"](), tmp_path, processes=2)
    assert log.equals(same)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_curve_tells_a_wrong_share_or_noise(tmp_path):
    """The tolerance is not so wide that a fault fits in: unequal shares averaged as if equal, or noise of other positions."""
    _, one = trained(MODELS["convolutions"](), tmp_path / "one", batch_size=3)

    def as_if_equal(model, indices, draws):
        found = mirrored(model, indices, draws)
        return {"loss": found["loss"] * (1.5 / len(indices)), "size": found["size"]}

    def other_noise(model, indices, draws):
        draws._streams = draws._streams[::-1]
        return mirrored(model, indices, draws)

    for number, (wrong, changes) in enumerate([(as_if_equal, {"processes": 2}), (other_noise, {})]):
        build, _, validate = MODELS["convolutions"]()
        _, log = trained((build, wrong, validate), tmp_path / str(number), batch_size=3, **changes)
        with pytest.raises(AssertionError):
            agree(one, log)


def test_every_process_sees_its_own_positions_of_one_batch(tmp_path):
    def notes(model, indices, draws):
        with (tmp_path / "seen").open("a") as file:  # one short line at a time: processes do not mix them
            file.write(f"{draws.step} {len(indices)} {draws.normal(1).flatten().tolist()}\n")
        return mirrored(model, indices, draws)

    def normals(step):
        lines = [line.split(" ", 2) for line in (tmp_path / "seen").read_text().splitlines()]
        return sorted(value for number, _, values in lines if int(number) == step for value in eval(values))

    build, _, validate = MODELS["convolutions"]()
    trained((build, notes, validate), tmp_path / "one", steps=2, batch_size=5)
    one = [normals(step) for step in range(2)]
    (tmp_path / "seen").unlink()
    trained((build, notes, validate), tmp_path / "two", steps=2, batch_size=5, processes=2)
    assert [normals(step) for step in range(2)] == one and len(one[0]) == 5


def test_early_stopping_ends_all_processes_at_the_same_step(tmp_path):
    build, loss, _ = MODELS["convolutions"]()

    def rises(model):
        rises.value += 1.0
        return {"loss": rises.value}

    rises.value = 0.0
    _, one = trained((build, loss, rises), tmp_path / "one", patience=2)
    rises.value = 0.0
    _, two = trained((build, loss, rises), tmp_path / "two", patience=2, processes=2)
    assert list(two["step"]) == [3, 6, 9]
    agree(one, two)


def test_only_the_main_process_evaluates(tmp_path):
    build, loss, _ = MODELS["convolutions"]()

    def validate(model):
        with (tmp_path / "evaluated").open("a") as file:
            file.write("once\n")
        return {"loss": 1.0}

    trained((build, loss, validate), tmp_path / "two", processes=2)
    assert len((tmp_path / "evaluated").read_text().splitlines()) == 4


def test_batch_normalisation_and_small_batches_are_refused(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3, padding=1))

    with pytest.raises(StudyError, match="normalises over its batch"):
        trained((build, mirrored, None), tmp_path, processes=2)
    with pytest.raises(StudyError, match="batch of 1 cannot be split over 2"):
        trained((convolutional, mirrored, None), tmp_path, processes=2, batch_size=1)


def test_what_goes_wrong_in_a_process_is_told(tmp_path):
    def explodes(model, indices, draws):
        found = mirrored(model, indices, draws)
        return found | {"loss": found["loss"] * float("nan")} if draws.step == 4 else found

    def dies(model, indices, draws):
        if torch.distributed.get_rank() == 1 and draws.step == 4:
            signal.raise_signal(signal.SIGKILL)
        return mirrored(model, indices, draws)

    def fails(model, indices, draws):
        if torch.distributed.get_rank() == 1:
            raise ValueError("this one process")
        return mirrored(model, indices, draws)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(StudyError, match="the loss is nan at step 4"):
        trained((convolutional, explodes, None), tmp_path / "explodes", processes=2)
    with pytest.raises(StudyError, match="one of 2 processes was ended from outside"):
        trained((convolutional, dies, None), tmp_path / "dies", processes=2)
    with pytest.raises(RuntimeError, match="ValueError: this one process"):
        trained((convolutional, fails, None), tmp_path / "fails", processes=2)
    assert signal.getsignal(signal.SIGINT) is handler


def test_processes_that_do_not_find_each_other_are_an_error(tmp_path, monkeypatch):
    from dsa_lib.nn import processes

    class Alone:
        num_processes = 1

        def __init__(self, **how):
            pass

    monkeypatch.setattr(processes, "Accelerator", Alone)
    with pytest.raises(StudyError, match="2 processes were started and found 1 in their group"):
        trained((convolutional, mirrored, None), tmp_path, processes=2)

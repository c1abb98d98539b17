"""The training loop: resume is exact, batches cover the data, averaging and stopping do what they say."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dsa_lib.nn import training
from dsa_lib.nn.training import Draws, batch_indices, budget, fit, held_out
from dsa_lib.run.errors import StudyError

DATA = torch.linspace(-1, 1, 40).reshape(-1, 1)


def regression(model, indices, draws):
    x = DATA[indices] + 0.01 * draws.normal(1)
    return {"loss": (model(x) - 3 * x).square().mean()}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))


def options(folder, **changes):
    defaults = dict(
        size=40, steps=30, batch_size=8, learning_rate=0.01, seed=7, folder=folder, digest="d", evaluate_every=10
    )
    return defaults | {"ema_decay": 0.9, "checkpoint_every_s": 0.0} | changes


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 10, 17])
def test_a_killed_training_ends_bit_identical(tmp_path, at):
    whole, broken = network(), network()
    log = fit(whole, regression, **options(tmp_path / "whole"))
    calls = 0

    def dies(model, indices, draws):
        nonlocal calls
        calls += 1
        if calls > at:
            raise Killed
        return regression(model, indices, draws)

    with pytest.raises(Killed):
        fit(broken, dies, **options(tmp_path / "broken"))
    again = network()
    resumed = fit(again, regression, **options(tmp_path / "broken"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert log.equals(resumed)


def test_a_checkpoint_of_other_parameters_is_not_taken_up(tmp_path):
    first = fit(network(), regression, **options(tmp_path))
    model = network()
    second = fit(model, regression, **options(tmp_path, digest="other", steps=10))
    assert list(first["step"]) == [10, 20, 30] and list(second["step"]) == [10]


def test_every_epoch_shows_every_sample_once():
    seen = np.concatenate([batch_indices(10, 4, seed=1, step=step) for step in range(5)])
    assert sorted(seen[:10]) == list(range(10)) and sorted(seen[10:]) == list(range(10))


def test_weights_decide_how_often_a_sample_is_drawn():
    weights = np.array([1.0, 0.0, 3.0])
    drawn = np.concatenate([batch_indices(3, 50, seed=1, step=step, weights=weights) for step in range(40)])
    assert (drawn == 1).sum() == 0
    assert abs((drawn == 2).mean() - 0.75) < 0.04


def test_draws_depend_on_the_position_not_on_the_batch():
    together = Draws(5, 3, range(4)).normal(2)
    apart = torch.cat([Draws(5, 3, range(2)).normal(2), Draws(5, 3, range(2, 4)).normal(2)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, Draws(5, 4, range(4)).normal(2))


def test_a_held_out_loss_is_the_mean_over_its_rows_however_they_are_batched():
    rows, heard = np.array([2, 5, 7, 8, 11]), []

    def loss(model, indices, draws):
        noise = draws.normal(1)[:, 0]
        heard.append(noise)
        return {
            "loss": (torch.from_numpy(indices) + noise).double().mean(),
            "rows": torch.tensor(float(indices.mean())),
        }

    whole, parts = (held_out(loss, rows, seed=4, batch_size=size)(network()) for size in (5, 2))
    assert whole == pytest.approx(parts) and whole["rows"] == pytest.approx(rows.mean())
    assert whole["loss"] == pytest.approx(float((rows + Draws(4, 0, range(5)).normal(1)[:, 0].numpy()).mean()))
    assert torch.equal(heard[0], torch.cat(heard[1:])), "a row's draws hang on its place alone"


def test_early_stopping_keeps_the_best_weights(tmp_path):
    values = iter([3.0, 1.0, 2.0, 2.5, 0.5])
    kept = []

    def validate(model):
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"loss": next(values)}

    model = network()
    log = fit(model, regression, **options(tmp_path, steps=100, validate=validate, patience=2))
    assert list(log["val_loss"]) == [3.0, 1.0, 2.0, 2.5]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept[1].items())


def test_no_samples_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="no training sample"):
        fit(network(), regression, **options(tmp_path, size=0))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    def explodes(model, indices, draws):
        parts = regression(model, indices, draws)
        explodes.calls += 1
        return {"loss": parts["loss"] * float("nan")} if explodes.calls > 15 else parts

    explodes.calls = 0
    with pytest.raises(StudyError, match="the loss is nan at step 15"):
        fit(network(), explodes, **options(tmp_path))
    log = fit(network(), regression, **options(tmp_path))
    assert log["train_loss"].notna().all()


def test_two_batches_a_step_are_one_batch_of_both(tmp_path):
    """The same samples with the same noise, and the same updates up to rounding; dropout is off, since its masks belong to a batch."""

    def still():
        model = network()
        model[1].p = 0.0
        return model

    def noting(seen):
        def loss(model, indices, draws):
            seen.extend(zip(indices, draws.normal(1).flatten().tolist(), strict=True))
            return regression(model, indices, draws)

        return loss

    one, two = [], []
    first, log = still(), fit(whole := still(), noting(one), **options(tmp_path / "one", batch_size=8))
    other = fit(first, noting(two), **options(tmp_path / "two", batch_size=4, accumulate=2))
    assert one == two
    np.testing.assert_allclose(log.to_numpy(), other.to_numpy(), rtol=1e-5)
    for a, b in zip(whole.state_dict().values(), first.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_an_epoch_of_accumulated_batches_has_fewer_steps():
    assert budget(96, 8, 0, 2) == {"steps": 24, "evaluate_every": 12}
    assert budget(96, 8, 0, 2, accumulate=3) == {"steps": 8, "evaluate_every": 4}


def test_averaged_weights_follow_their_definition(tmp_path):
    seen = []

    def validate(model):
        seen.append(model[0].weight.detach().clone())
        return {"loss": -len(seen)}

    plain = []

    def loss(model, indices, draws):
        plain.append(model[0].weight.detach().clone())
        return regression(model, indices, draws)

    model = network()
    start = model[0].weight.detach().clone()
    fit(model, loss, **options(tmp_path, steps=6, evaluate_every=1, validate=validate, ema_decay=0.5))
    average = start
    for step, weight in enumerate(plain[1:], start=1):  # what a step starts from is what the step before made
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        assert torch.allclose(seen[step - 1], average, atol=1e-6)
    assert torch.equal(model[0].weight, seen[-1])


def test_half_precision_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(StudyError, match="fp16 needs an NVIDIA GPU"):
        fit(network(), regression, **options(tmp_path, precision="fp16"))


def half_precision_on_a_processor(scale):
    """An accelerator whose gradients are scaled as on a GPU in fp16; autocast is left out, for speed."""

    def make(precision):
        training.AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=5)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        accelerator.autocast = lambda: torch.autocast("cpu", enabled=False)
        return accelerator

    return make


class Overflows(torch.autograd.Function):
    """The identity, whose gradient is infinite where it exceeds fp16's largest number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient.abs() > 65504, torch.inf, gradient)


def half(model, indices, draws):
    found = regression(model, indices, draws)
    return {"loss": Overflows.apply(found["loss"])}


def test_an_update_that_fp16_skips_is_made_up_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_accelerator", half_precision_on_a_processor(scale=2.0**20))
    steps = []

    def counted(model, indices, draws):
        steps.append((draws.step, *indices))
        return half(model, indices, draws)

    scaled = network()
    log = fit(scaled, counted, **options(tmp_path / "half", clip_norm=1.0))
    monkeypatch.undo()
    plain = network()
    expected = fit(plain, regression, **options(tmp_path / "plain", clip_norm=1.0))
    assert len(steps) > 30 + 5 and list(dict.fromkeys(steps)) == sorted(
        set(steps)
    )  # repeated, in order, on the same samples
    assert {step for step, *_ in steps} == set(range(30))
    np.testing.assert_allclose(log.to_numpy(), expected.to_numpy(), rtol=1e-4)
    for a, b in zip(scaled.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_killed_fp16_training_goes_on_at_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_accelerator", half_precision_on_a_processor(scale=2.0**20))
    whole, again = network(), network()
    fit(whole, half, **options(tmp_path / "whole"))

    def dies(model, indices, draws):
        if draws.step == 13:
            raise Killed
        return half(model, indices, draws)

    with pytest.raises(Killed):
        fit(network(), dies, **options(tmp_path / "broken"))
    monkeypatch.setattr(training, "_accelerator", half_precision_on_a_processor(scale=1.0))
    fit(again, half, **options(tmp_path / "broken"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_gradients_that_always_overflow_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_accelerator", half_precision_on_a_processor(scale=2.0**16))

    def loss(model, indices, draws):
        found = regression(model, indices, draws)
        found["loss"].register_hook(lambda gradient: gradient * torch.inf)
        return found

    with pytest.raises(StudyError, match="fp16 overflows at step 0"):
        fit(network(), loss, **options(tmp_path))


def test_two_precisions_in_one_session(tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        fit(network(), regression, **options(tmp_path / precision, steps=2, precision=precision))


def test_parts_that_come_later_are_averaged_over_their_own_steps(tmp_path):
    def loss(model, indices, draws):
        found = regression(model, indices, draws)
        return found | ({"late": torch.tensor(3.0)} if draws.step >= 15 else {})

    log = fit(network(), loss, **options(tmp_path))
    assert log["train_late"].isna().tolist() == [True, False, False] and (log["train_late"].dropna() == 3.0).all()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["train_loss"] for line in lines] == log["train_loss"].tolist()


def test_weights_to_start_from_are_judged_and_never_ended_worse_than(tmp_path):
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    truth = lambda model: {"loss": float((model(DATA) - 3 * DATA).square().mean().detach())}  # noqa: E731
    first = truth(given.eval())["loss"]
    worse = lambda model, indices, draws: {"loss": -(model(DATA[indices]) - 3 * DATA[indices]).square().mean()}  # noqa: E731
    log = fit(given, worse, validate=truth, evaluate_first=True, **options(tmp_path / "worse", ema_decay=0.0))
    assert log["val_loss"].iloc[0] == pytest.approx(first) and log["step"].iloc[0] == 0
    assert log["val_loss"].iloc[-1] > first
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    better = network()
    fit(better, regression, validate=truth, evaluate_first=True, **options(tmp_path / "better"))
    assert truth(better)["loss"] < first


def test_weights_that_are_not_finite_do_not_replace_the_last_good_checkpoint(tmp_path):
    """An infinite gradient of a finite loss: the checkpoint before it stays, and says nothing of NaN."""

    def breaks(model, indices, draws):
        loss = regression(model, indices, draws)["loss"]
        if draws.step == 14:
            loss = loss + 0 * (loss - loss.detach()).abs().sqrt()  # its gradient is 0 · ∞
        return {"loss": loss}

    with pytest.raises(StudyError, match=r"weights are not finite any more at step 15"):
        fit(network(), breaks, **options(tmp_path))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert json.loads(state["progress"])["step"] == 14
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_another_epoch_has_another_order():
    orders = [
        np.concatenate([batch_indices(12, 4, seed=1, step=3 * epoch + k) for k in range(3)]) for epoch in (0, 1, 2)
    ]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("warmup, share", [(0, 1.0), (3, 0.25), (9, 0.1)])
def test_the_first_step_of_a_warm_up_is_small(tmp_path, warmup, share):
    """Adam's first step is the learning rate, whatever the gradient; step k of a warm-up of n takes (k + 1) / (n + 1) of it."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    settings = options(tmp_path, steps=1, evaluate_every=1, ema_decay=0.0, warmup_steps=warmup, cosine=False)
    fit(model, regression, **settings)
    assert float(model.weight) - 1 == pytest.approx(0.01 * share, rel=0.02)

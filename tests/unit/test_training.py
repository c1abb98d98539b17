"""The training loop: resume is exact, batches cover the data, averaging and stopping do what they say."""

import numpy as np
import pytest
import torch
from torch import nn

from dsa_lib.errors import StudyError
from dsa_lib.training import Draws, batch_indices, fit

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

"""Parts of a model with learning rates of their own: each is stepped and clipped as if it were trained alone; resume is exact."""

import pytest
import torch
from torch import nn

from dsa_lib.nn.training import fit
from dsa_lib.run.errors import StudyError

DATA = torch.linspace(-1, 1, 40).reshape(-1, 1)


class Two(nn.Module):
    """Two players that share nothing; the second one's loss is a thousand times the first one's."""

    def __init__(self, *parts):
        super().__init__()
        for name in parts:
            torch.manual_seed(len(name))
            self.add_module(name, nn.Linear(1, 1))


def loss(model, indices, draws):
    x = DATA[indices] + 0.01 * draws.normal(1)
    scale = {"player": 1.0, "opponent": 1000.0}
    parts = {name: scale[name] * (part(x) - 3 * x).square().mean() for name, part in model.named_children()}
    return parts | {"loss": sum(parts.values())}


def options(folder, **changes):
    defaults = dict(size=40, steps=30, batch_size=8, learning_rate=0.01, seed=7, folder=folder, digest="d")
    return (
        defaults
        | {"betas": (0.0, 0.9), "rates": {"opponent": 0.04}, "clip_norm": 0.1, "cosine": True, "warmup_steps": 3}
        | {"ema_decay": 0.9, "checkpoint_every_s": 0.0}
        | changes
    )


def weights(model, part):
    return torch.cat([value.flatten() for value in getattr(model, part).state_dict().values()])


def test_each_part_is_stepped_and_clipped_as_if_alone(tmp_path):
    both = Two("player", "opponent")
    fit(both, loss, **options(tmp_path / "both"))
    for name, rate in (("player", 0.01), ("opponent", 0.04)):
        alone = Two(name)
        fit(alone, loss, **options(tmp_path / name, rates=None, learning_rate=rate))
        assert torch.equal(weights(both, name), weights(alone, name))


def test_without_rates_one_clipping_joins_the_parts(tmp_path):
    both, alone = Two("player", "opponent"), Two("player")
    same = {"rates": None, "betas": (0.9, 0.999), "steps": 3}
    fit(both, loss, **options(tmp_path / "both", **same))
    fit(alone, loss, **options(tmp_path / "alone", **same))
    assert not torch.equal(weights(both, "player"), weights(alone, "player"))


def test_the_first_step_by_hand(tmp_path):
    """Adam with β₁ = 0: the first step of every weight is its own rate, against the sign of its gradient (ε apart; AdamW's decay is 0)."""
    model = Two("player", "opponent")
    before = {name: weights(model, name) for name in ("player", "opponent")}
    fit(model, loss, **options(tmp_path, steps=1, warmup_steps=0, cosine=False, ema_decay=0.0))
    for name, rate in (("player", 0.01), ("opponent", 0.04)):
        assert (weights(model, name) - before[name]).abs().numpy() == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("at", [1, 13])
def test_resume_is_bit_identical(tmp_path, at):
    whole = Two("player", "opponent")
    log = fit(whole, loss, **options(tmp_path / "whole"))

    def dies(model, indices, draws):
        if draws.step == at:
            raise KeyboardInterrupt
        return loss(model, indices, draws)

    with pytest.raises(KeyboardInterrupt):
        fit(Two("player", "opponent"), dies, **options(tmp_path / "broken"))
    again = Two("player", "opponent")
    resumed = fit(again, loss, **options(tmp_path / "broken"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert log.equals(resumed)


def test_two_processes_leave_a_state_that_can_be_read(tmp_path):
    one, two = Two("player", "opponent"), Two("player", "opponent")
    fit(one, loss, **options(tmp_path / "one", steps=4))
    fit(two, loss, **options(tmp_path / "two", steps=4), processes=2)
    assert weights(two, "opponent").numpy() == pytest.approx(weights(one, "opponent").numpy(), abs=1e-5)


def test_a_part_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="nothing to train in a part named 'judge'; its parts are player, opponent"):
        fit(Two("player", "opponent"), loss, **options(tmp_path, rates={"judge": 0.1}))

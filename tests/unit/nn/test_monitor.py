"""What a training shows: lines, pictures of samples, TensorBoard where it is installed, a curve where somebody looks."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image
from test_training import network, options, regression

from dsa_lib.nn import monitor
from dsa_lib.nn.training import fit


def frames(model):
    """Five frames that say which weights they were made with: fixed noise, so that they differ by the model alone."""
    noise = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    level = (model(noise) * 20 + 100).clamp(0, 255).to(torch.uint8).numpy()
    return np.broadcast_to(level[:, :, None], (5, 4, 6))


def test_samples_are_saved_at_every_evaluation_from_the_weights_that_would_be_kept(tmp_path):
    models = []

    def sample(model):
        assert not model.training
        models.append({name: value.clone() for name, value in model.state_dict().items()})
        return frames(model)

    model = network()
    fit(model, regression, **options(tmp_path, sample=sample))
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [picture.name for picture in pictures] == ["0000010.png", "0000020.png", "0000030.png"]
    last = np.asarray(Image.open(pictures[-1]))
    assert last.shape == (8, 18) and np.array_equal(last[:4, :6], frames(model)[0]) and (last[4:, 12:] == 255).all()
    assert all(torch.equal(value, models[-1][name]) for name, value in model.state_dict().items())


def test_sampling_changes_nothing_and_may_return_nothing(tmp_path):
    def sample(model):
        torch.randn(3), model(torch.randn(4, 1))

    plain, watched = network(), network()
    fit(plain, regression, **options(tmp_path / "plain"))
    fit(watched, regression, **options(tmp_path / "watched", sample=sample))
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    )
    assert not (tmp_path / "watched" / "samples").exists()


def test_pictures_of_a_discarded_training_are_removed(tmp_path):
    fit(network(), regression, **options(tmp_path, sample=frames))
    fit(network(), regression, **options(tmp_path, sample=frames, steps=10, digest="other"))
    assert [picture.name for picture in (tmp_path / "samples").iterdir()] == ["0000010.png"]


def test_tiles_are_in_reading_order():
    grid = monitor.tiled(np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 2, 2), np.uint8))
    assert grid.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 255, 255], [2, 2, 255, 255]]


def test_scalars_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    class Writer:
        made = ()

        def __init__(self, folder, purge_step):
            self.folder, self.purge_step, self.scalars, self.images, self.closed = folder, purge_step, [], [], False
            Writer.made += (self,)

        def add_scalar(self, name, value, step):
            self.scalars.append((name, value, step))

        def add_image(self, name, image, step, dataformats):
            self.images.append((name, image.shape, step, dataformats))

        def flush(self):
            pass

        def close(self):
            self.closed = True

    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    how = options(tmp_path, sample=frames, validate=lambda model: {"loss": 2.0}, what="autoencoder")
    log = fit(network(), regression, **how)
    (writer,) = Writer.made
    assert writer.folder == str(tmp_path / "tensorboard") and writer.purge_step == 1 and writer.closed
    told = {(name, step): value for name, value, step in writer.scalars}
    assert told["autoencoder/train_loss", 20] == log["train_loss"][1] and told["autoencoder/val_loss", 30] == 2.0
    assert writer.images[0] == ("autoencoder/samples", (8, 18), 10, "HW")
    # A training that was cut off takes back what it had written beyond its checkpoint; a finished one writes no more.
    fit(network(), regression, **how)
    assert len(Writer.made) == 1
    monitor.Monitor("autoencoder", 30, tmp_path, 1.0, start=20, shown=True, live=False)
    assert Writer.made[1].purge_step == 21


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(network(), regression, **options(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


def test_lines_are_few_and_the_last_step_has_one(tmp_path, capsys):
    fit(network(), regression, **options(tmp_path, what="judge", log_every_s=1e9))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("  judge 30/30") and "train_loss" in lines[0]


# --- the live curve -----------------------------------------------------------------------------------------------------


class Shell:
    def __init__(self, content):
        self.kernel = types.SimpleNamespace(get_parent=lambda channel: {"content": content})


@pytest.mark.parametrize(
    "shell, looks",
    [
        (None, False),  # plain Python with IPython imported by some library
        (types.SimpleNamespace(), False),  # IPython on a terminal
        (Shell({"allow_stdin": False}), False),  # papermill, nbconvert
        (Shell({}), False),
        (Shell({"allow_stdin": True}), True),
    ],
)
def test_a_curve_is_drawn_where_somebody_looks(monkeypatch, shell, looks):
    stand_in = types.ModuleType("IPython")
    stand_in.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", stand_in)
    assert monitor.somebody_looks() is looks


NOTEBOOK = """
import sys
sys.path.insert(0, {tests!r})
from test_monitor import frames
from test_training import network, options, regression
from dsa_lib.nn.training import fit
how = options({folder!r}, sample=frames, validate=lambda model: {{"loss": 1.0}}, log_every_s=0.0)
fit(network(), regression, **how, processes={processes});
"""


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("by_hand, processes", [(False, 1), (True, 1), (True, 2)])
def test_in_a_kernel(kernel, tmp_path, by_hand, processes):
    """The same cell, run as JupyterLab runs it (a person can be asked) and as papermill does: one figure that is drawn anew, or plain lines.

    Lines of several processes reach the notebook too.
    """
    outputs = []
    code = NOTEBOOK.format(tests=str(Path(__file__).parent), folder=str(tmp_path), processes=processes)
    reply = kernel.execute_interactive(code, allow_stdin=by_hand, output_hook=outputs.append, timeout=600)
    assert reply["content"]["status"] == "ok", reply["content"]
    text = "".join(each["content"].get("text", "") for each in outputs if each["msg_type"] == "stream")
    shown = [each for each in outputs if each["msg_type"] == "display_data"]
    drawn_anew = [each for each in outputs if each["msg_type"] == "update_display_data"]
    if by_hand and processes == 1:
        assert len(shown) == 1 and len(drawn_anew) >= 3 and "training 30/30" not in text
        assert "image/png" in drawn_anew[-1]["content"]["data"]
    else:
        assert not shown and not drawn_anew and text.count("training 30/30") == 1
    assert ("2 processes" in text) == (processes == 2)

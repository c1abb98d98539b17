"""Features on disk: never computed twice, never taken for other images or another network, and whole after an interruption."""

import numpy as np
import pytest
from PIL import Image

from dsa_lib.core.images import ImageFiles
from dsa_lib.fidelity.extractor import BLOCK_BATCHES, Extractor, cached
from dsa_lib.run.errors import StudyError


class Counting:
    """Mean and spread of each frame; counts the images it saw, and can stop after some."""

    def __init__(self, stop_after=None):
        self.images, self.stop_after = 0, stop_after

    def __call__(self, frames):
        if self.stop_after is not None and self.images >= self.stop_after:
            raise KeyboardInterrupt
        self.images += len(frames)
        return np.stack([frames.mean((1, 2)), frames.std((1, 2))], axis=1).astype(np.float32)


def extractor(compute, folder, digest="a" * 64, name="net"):
    return cached(Extractor(name, "distance", compute, batch_size=2, digest=digest), folder)


BLOCK = 2 * BLOCK_BATCHES


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3 * BLOCK + 5, 8, 8)).astype(np.uint8)


def test_a_second_call_computes_nothing_and_gives_the_same(tmp_path, frames):
    first, second = Counting(), Counting()
    values = extractor(first, tmp_path)(frames)
    np.testing.assert_array_equal(values, Counting()(frames))
    np.testing.assert_array_equal(extractor(second, tmp_path)(frames.copy()), values)
    assert (first.images, second.images) == (len(frames), 0)
    rows = np.arange(BLOCK, 3 * BLOCK)  # whole blocks of the same images are known, whatever set they are asked for in
    np.testing.assert_array_equal(extractor(second, tmp_path)(frames, rows), values[rows])
    assert second.images == 0


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, frames):
    with pytest.raises(KeyboardInterrupt):
        extractor(Counting(stop_after=2 * BLOCK + 4), tmp_path)(frames)
    rest = Counting()
    values = extractor(rest, tmp_path)(frames)
    assert rest.images == len(frames) - 2 * BLOCK
    np.testing.assert_array_equal(values, Counting()(frames))


def test_other_images_another_order_or_another_network_are_computed(tmp_path, frames):
    extractor(Counting(), tmp_path)(frames)
    other = frames.copy()
    other[BLOCK + 1, 0, 0] ^= 1
    for images, expected in ((other, BLOCK), (np.roll(frames[:BLOCK], 1, axis=0), BLOCK), (frames[:, :4], len(frames))):
        compute = Counting()
        np.testing.assert_array_equal(extractor(compute, tmp_path)(images), Counting()(images))
        assert compute.images == expected
    compute = Counting()
    extractor(compute, tmp_path, digest="b" * 64)(frames)
    assert compute.images == len(frames)


def test_blocks_of_a_network_that_is_gone_are_removed(tmp_path, frames):
    extractor(Counting(), tmp_path, name="inception")(frames)
    extractor(Counting(), tmp_path)(frames)
    extractor(Counting(), tmp_path, digest="b" * 64)(frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inception-" + "a" * 16, "net-" + "b" * 16]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_block_is_computed_again(tmp_path, frames, damage):
    values = extractor(Counting(), tmp_path)(frames)
    block = sorted(tmp_path.rglob("*.npy"))[0]
    block.write_bytes(block.read_bytes()[:-3] if damage is None else damage)
    compute = Counting()
    np.testing.assert_array_equal(extractor(compute, tmp_path)(frames), values)
    assert 0 < compute.images <= BLOCK


def test_values_that_are_not_finite_are_never_kept(tmp_path, frames):
    def broken(images):
        values = Counting()(images)
        values[-1] = np.nan
        return values

    with pytest.raises(StudyError, match="not finite"):
        extractor(broken, tmp_path)(frames[:4])
    assert not list(tmp_path.rglob("*.npy"))


def test_image_files_are_known_by_their_bytes_and_not_decoded_again(tmp_path, frames, monkeypatch):
    (tmp_path / "images").mkdir()
    names = [f"{index}.png" for index in range(6)]
    for name, frame in zip(names, frames, strict=False):
        Image.fromarray(frame).save(tmp_path / "images" / name)
    values = extractor(Counting(), tmp_path / "cache")(ImageFiles(tmp_path / "images", names))
    np.testing.assert_array_equal(values, Counting()(frames[:6]))
    files = ImageFiles(tmp_path / "images", names)
    monkeypatch.setattr(ImageFiles, "_pixels", lambda *args: pytest.fail("an image was decoded"))
    np.testing.assert_array_equal(extractor(Counting(), tmp_path / "cache")(files), values)


def test_an_extractor_without_a_digest_keeps_nothing(tmp_path, frames):
    plain = cached(Extractor("net", "distance", Counting(), batch_size=2), tmp_path)
    plain(frames)
    assert not list(tmp_path.iterdir())

"""Changes of images that networks are trained with, against scipy."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from dsa_lib.nn.augmentation import between, blurred


def test_blur_equals_scipy():
    image = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    ours = blurred(torch.from_numpy(image)[:, None], torch.tensor([0.9, 0.0]))[:, 0].numpy()
    np.testing.assert_allclose(ours[0], gaussian_filter(image[0], 0.9, mode="nearest", radius=3), atol=1e-5)
    np.testing.assert_allclose(ours[1], image[1], atol=1e-6)


def test_between_maps_the_unit_interval():
    assert between((-2.0, 6.0), torch.tensor([0.0, 0.25, 1.0])).tolist() == [-2.0, 0.0, 6.0]

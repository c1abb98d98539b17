"""Random changes of images that several networks are trained with, one draw an image."""

import torch
import torch.nn.functional as F


def between(limits: tuple[float, float], u: torch.Tensor) -> torch.Tensor:
    """Uniform draws `u` in [0, 1] mapped to `limits`."""
    return limits[0] + (limits[1] - limits[0]) * u


def blurred(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """images [n, 1, h, w] under a Gaussian of standard deviation sigma [n] in pixels (kernel of ±3 pixels; 0 leaves an image as it is)."""
    offsets = torch.arange(-3.0, 4.0, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    n = len(images)
    stacked = F.pad(images.transpose(0, 1), (3, 3, 3, 3), mode="replicate")  # one group an image: [1, n, h, w]
    stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=n)
    return F.conv2d(stacked, kernel[:, None, :, None], groups=n).transpose(0, 1)

"""A patch discriminator beside the autoencoder (Isola et al. 2017; with the hinge loss as Esser et al. 2021), which §4.5 does not have: off in `paper`."""

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Module):
    """One logit a patch, [n, 1, H/2^levels, W/2^levels], for images [n, channels, H, W]: acquired (high) or decoded (low).

    Group normalisation in the place of the original's batch normalisation: a sample's logits then depend on no other sample of the batch.
    """

    def __init__(self, width: int = 32, levels: int = 3, channels: int = 1):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, levels):
            wide = width * 2**level
            layers += [nn.Conv2d(wide // 2, wide, 4, 2, 1), nn.GroupNorm(8, wide), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(width * 2 ** (levels - 1), 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class WithDiscriminator(nn.Module):
    """Autoencoder and discriminator as one module, so that one optimiser, one checkpoint and one backward pass serve both.

    Each must learn from its own loss alone. The discriminator's loss sees decoded images cut off from the autoencoder; the generator's loss sees the
    discriminator with its weights cut off. So the sum of both has, for every weight, the gradient of that weight's own loss, and both step at once. Adam's
    steps do not depend on the scale of a loss, so the discriminator needs no weight of its own; it learns from the first step on, whatever
    `discriminator_start` says of the generator's loss.
    """

    def __init__(self, autoencoder: nn.Module, width: int = 32):
        super().__init__()
        self.autoencoder = autoencoder
        self.discriminator = PatchDiscriminator(width)

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Hinge losses of acquired images x and decoded images y, both [n, 1, H, W].

        generator: −E[D(y)]; discriminator: ½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(y))].
        """
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        generator = -torch.func.functional_call(self.discriminator, frozen, (y,)).mean()
        real, fake = self.discriminator(x), self.discriminator(y.detach())
        discriminator = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return {"generator": generator.float(), "discriminator": discriminator.float()}

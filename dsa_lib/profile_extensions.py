"""Profile sections of the extensions (notebooks 08, 09); defaults are those of `paper`. Numbers are ours unless a source is named."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CtPerfusion:
    """CT perfusion and diffusion volumes in NIfTI as pairs of slices (dsa_lib.ct_perfusion)."""

    target: str = "dwi"  # or "adc": what is synthesised
    time_points: int = 8  # of the bolus, one source channel each, where the perfusion series itself is given
    bolus_share: float = 0.1  # the bolus lasts while the brain's mean enhancement is this share of its peak or more
    field_mm: float = 230.0  # side of the square field of view: an adult head with a margin
    least_brain: float = 0.1  # of a slice's pixels: slices with less brain are left out
    least_covered: float = 0.9  # of a slice's brain that the perfusion scan covers, which is often a slab of the head
    hu_window: tuple[float, ...] = (0.0, 120.0)  # grey 0 and 255 of the series: brain, blood with contrast
    adc_window: tuple[float, ...] = (0.0, 2000.0)  # in 10⁻⁶ mm²/s: infarct 400, brain 800; liquor is cut off
    percentiles: tuple[float, ...] = (0.5, 99.8)  # of the brain, grey 0 and 255 of DWI and of perfusion maps
    train_fraction: float = 0.7  # of the patients
    val_fraction: float = 0.1


@dataclass(frozen=True)
class Pix2Pix:
    """The GAN baseline of notebook 09 (dsa_lib.pix2pix; Isola et al., CVPR 2017)."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 64)  # of the five levels of the U-Net, and of the last layers
    dropout: float = 0.5  # in the generator, while training and sampling: the source's only noise
    discriminator_width: int = 64
    l1_weight: float = 100.0  # λ of Eq. 4
    adversarial: str = "bce"  # Eq. 1; "hinge" is the loss that the autoencoder's discriminator has
    batch_size: int = 16  # the source takes 1; more is steadier, with normalisation within each image
    learning_rate: float = 2e-4  # §3.3
    beta_1: float = 0.5  # §3.3
    steps: int = 100_000

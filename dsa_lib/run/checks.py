"""Combinations of profile values that cannot work, each with its remedy in one sentence."""

import dataclasses

from dsa_lib.run.errors import StudyError

FEATURES = (
    "inception",
    "dsa-network",
    "phase-network",
    "dinov2",
    "radimagenet",
)  # what dsa_lib.fidelity.features can open


def check_profile(profile) -> None:
    """Impossible combinations, each with its remedy."""

    def need(condition: bool, sentence: str):
        if not condition:
            raise StudyError(f"profile {profile.name}: {sentence}")

    auto, diffusion, curation, sampling = profile.autoencoder, profile.diffusion, profile.curation, profile.sampling
    need(
        profile.precision in ("bf16", "fp16", "fp32", "auto"),
        f"precision {profile.precision!r} is not bf16, fp16, fp32 or auto",
    )
    for section in (
        item.name for item in dataclasses.fields(profile) if item.default_factory is not dataclasses.MISSING
    ):
        for item in dataclasses.fields(getattr(profile, section)):
            value = getattr(getattr(profile, section), item.name)
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            need(not numeric or value >= 0, f"{section}.{item.name} is {value}: it cannot be negative")
    need(profile.seed >= 0, f"seed is {profile.seed}: it cannot be negative")
    positive = """
        archive.patients archive.matrix archive.frames archive.annotated_series curation.image_size
        curation.file_seconds curation.file_memory_mb
        classifier.accumulate autoencoder.accumulate diffusion.accumulate
        classifier.steps classifier.input_size classifier.batch_size classifier.learning_rate
        autoencoder.batch_size autoencoder.learning_rate diffusion.batch_size diffusion.learning_rate
        sampling.steps sampling.batch_size sampling.reader_batches sampling.reader_per_condition sampling.fid_per_condition
         readers.bootstrap fidelity.repeats fidelity.subsamples fidelity.infinity_repeats fidelity.sensitivity_images
         network.steps network.batch_size network.input_size network.width network.evaluations network.learning_rate sweep.seeds
         pix2pix.batch_size pix2pix.learning_rate pix2pix.steps pix2pix.discriminator_levels pix2pix.discriminator_width
         peripheral.frames peripheral.steps peripheral.learning_rate peripheral.batch_size peripheral.per_condition peripheral.held_out
         peripheral.bootstrap peripheral.distance_bootstrap lesion_sentences.steps lesion_sentences.learning_rate
         lesion_sentences.batch_size lesion_sentences.asked lesion_sentences.judge_size lesion_sentences.judge_steps
         lesion_sentences.judge_batch ct_perfusion.time_points ct_perfusion.field_mm
         plausibility.images plausibility.bootstrap plausibility.network_size plausibility.network_crop plausibility.network_steps
         plausibility.network_batch plausibility.network_learning_rate
        privacy.leave_one_out privacy.gallery privacy.planted_frames privacy.planted_images privacy.planted_learning_rate
        anatomy.frames_per_series anatomy.batch_size anatomy.steps anatomy.learning_rate anatomy.sampling_steps anatomy.evaluated
        anatomy.subsamples anatomy.bootstrap anatomy.edited anatomy.edge_sigma anatomy.pairs
        anatomy.segmenter_steps
        spade.hidden spade.latent spade.discriminator_channels spade.discriminators spade.discriminator_layers spade.learning_rate spade.discriminator_rate
        acdc.field_mm
    """
    for dotted in positive.split():
        section, key = dotted.split(".")
        need(getattr(getattr(profile, section), key) > 0, f"{dotted} is 0: it must be positive")
    need(
        auto.image_size == curation.image_size,
        f"autoencoder.image_size {auto.image_size} differs from curation.image_size {curation.image_size}: set both alike",
    )
    need(
        0 < profile.classifier.threshold < 1,
        f"classifier.threshold {profile.classifier.threshold} is not between 0 and 1",
    )
    need(
        0 < profile.classifier.crop_fraction <= 1,
        f"classifier.crop_fraction {profile.classifier.crop_fraction} is not in (0, 1]",
    )
    need(
        curation.differencing in ("subtract", "exclude"),
        f"curation.differencing {curation.differencing!r} is not subtract or exclude",
    )
    need(1 <= curation.background_grey <= 254, f"curation.background_grey {curation.background_grey} is not in 1–254")
    need(
        profile.text.max_tokens >= 40,
        f"text.max_tokens {profile.text.max_tokens} is shorter than the longest sentence: give 40 or more",
    )
    need(
        profile.fidelity.reference_mix in ("balanced", "as-is"),
        f"fidelity.reference_mix {profile.fidelity.reference_mix!r} is not balanced or as-is",
    )
    need(
        0.5 <= profile.fidelity.subsample_share < 1,
        f"fidelity.subsample_share {profile.fidelity.subsample_share} is not in [0.5, 1): take half of the patients or more, not all",
    )
    need(
        profile.fidelity.infinity_points >= 3,
        f"fidelity.infinity_points {profile.fidelity.infinity_points} do not show whether the line is straight: give 3 or more",
    )
    factor = 2 ** (len(auto.block_channels) - 1)
    need(
        auto.image_size % factor == 0,
        f"autoencoder.image_size {auto.image_size} is not divisible by the downsampling factor {factor}",
    )
    need(
        auto.crop <= auto.image_size and auto.crop % factor == 0,
        f"autoencoder.crop {auto.crop} is larger than the frame, or not divisible by the downsampling factor {factor}",
    )
    latent = auto.image_size // factor
    shrink = 2 ** (len(diffusion.multipliers) - 1)
    need(
        latent % shrink == 0,
        f"latents of {latent}² cannot be halved {len(diffusion.multipliers) - 1} times: shorten diffusion.multipliers",
    )
    need(
        len(diffusion.attention_levels) == len(diffusion.multipliers),
        "diffusion.attention_levels and diffusion.multipliers differ in length: give one flag a level",
    )
    for multiplier, attends in zip(diffusion.multipliers, diffusion.attention_levels, strict=True):
        channels = diffusion.base_channels * multiplier
        need(
            not attends or channels % diffusion.head_channels == 0,
            f"{channels} channels do not divide into heads of {diffusion.head_channels}: change diffusion.head_channels",
        )
        need(
            channels % diffusion.norm_groups == 0,
            f"{channels} channels do not divide into {diffusion.norm_groups} normalisation groups: change diffusion.norm_groups",
        )
    need(
        all(channels % auto.norm_groups == 0 for channels in auto.block_channels),
        "autoencoder.block_channels do not divide by autoencoder.norm_groups",
    )
    need(0 <= profile.text.dropout < 1, f"text.dropout {profile.text.dropout} is not in [0, 1)")
    need(
        profile.text.width % profile.text.heads == 0,
        f"text.width {profile.text.width} does not divide into {profile.text.heads} heads",
    )
    need(
        curation.train_fraction + curation.val_fraction < 1,
        "curation.train_fraction + curation.val_fraction leave no held-out patients: lower one",
    )
    need(
        diffusion.beta_schedule in ("linear", "scaled_linear"),
        f"diffusion.beta_schedule {diffusion.beta_schedule!r} is not linear or scaled_linear",
    )
    need(
        diffusion.prediction in ("epsilon", "v_prediction"),
        f"diffusion.prediction {diffusion.prediction!r} is not epsilon or v_prediction",
    )
    need(
        0 < diffusion.beta_start < diffusion.beta_end < 1,
        "diffusion.beta_start and beta_end must satisfy 0 < start < end < 1",
    )
    for name, section in (("autoencoder", auto), ("diffusion", diffusion)):
        need(0 <= section.ema_decay < 1, f"{name}.ema_decay {section.ema_decay} is not in [0, 1)")
    need(
        0 <= diffusion.condition_dropout < 1,
        f"diffusion.condition_dropout {diffusion.condition_dropout} is not in [0, 1)",
    )
    need(
        sampling.guidance == 1 or diffusion.condition_dropout > 0,
        f"sampling.guidance {sampling.guidance} needs a model trained with diffusion.condition_dropout above 0: set it, or guidance 1",
    )
    need(
        auto.perceptual in ("lpips", "phase-network", "random"),
        f"autoencoder.perceptual {auto.perceptual!r} is not lpips, phase-network or random (for benchmarks alone)",
    )
    need(auto.kl_reduction in ("sum", "mean"), f"autoencoder.kl_reduction {auto.kl_reduction!r} is not sum or mean")
    need(
        auto.perceptual_weight + auto.l1_weight > 0,
        "autoencoder.perceptual_weight and l1_weight are both 0: nothing would be reconstructed",
    )
    need(
        sampling.scheduler in ("ddpm", "ddim", "dpmsolver++", "unipc"),
        f"sampling.scheduler {sampling.scheduler!r} is not ddpm, ddim, dpmsolver++ or unipc",
    )
    need(
        sampling.steps <= diffusion.timesteps,
        f"sampling.steps {sampling.steps} exceeds diffusion.timesteps {diffusion.timesteps}",
    )
    need(
        profile.fidelity.features in FEATURES,
        f"fidelity.features {profile.fidelity.features!r} is not {', '.join(FEATURES[:-1])} or {FEATURES[-1]}",
    )
    need(
        profile.network.other_share < 1,
        f"network.other_share {profile.network.other_share} is not below 1: no arterial frame would be drawn",
    )
    plausibility = profile.plausibility
    need(
        plausibility.segmenter in ("network", "classical"),
        f"plausibility.segmenter {plausibility.segmenter!r} is not network or classical",
    )
    need(
        len(plausibility.network_channels) == 6,
        f"plausibility.network_channels has {len(plausibility.network_channels)} numbers: give six, five levels and the last convolutions",
    )
    need(
        plausibility.network_size % 16 == 0 and plausibility.network_crop % 16 == 0,
        "plausibility.network_size and network_crop must be multiples of 16: the network halves them four times",
    )
    need(
        plausibility.network_crop <= plausibility.network_size,
        f"plausibility.network_crop {plausibility.network_crop} is larger than network_size {plausibility.network_size}",
    )
    need(0 < profile.privacy.level < 1, f"privacy.level {profile.privacy.level} is not between 0 and 1")
    for side in ("before", "after"):
        positive, negative = f"positive_{side}_s", f"negative_{side}_s"
        need(
            getattr(profile.classifier, positive) < getattr(profile.classifier, negative),
            f"classifier.{positive} must be below classifier.{negative}",
        )
    for epochs, steps, name in (
        (auto.epochs, auto.steps, "autoencoder.epochs and autoencoder.steps"),
        (
            diffusion.epochs_unconditional,
            diffusion.steps_unconditional,
            "diffusion.epochs_unconditional and steps_unconditional",
        ),
        (
            diffusion.epochs_conditional,
            diffusion.steps_conditional,
            "diffusion.epochs_conditional and steps_conditional",
        ),
    ):
        need(epochs + steps > 0, f"{name} are both 0: give a budget")
    _check_utility(profile.utility, need)
    _check_lesion_extras(profile, need)
    _check_anatomy(profile, need)
    _check_lesions(profile, need)


def _check_utility(utility, need) -> None:
    for name in ("seeds", "steps", "input_size", "width", "batch_size", "learning_rate"):
        need(getattr(utility, name) > 0, f"utility.{name} is 0: it must be positive")
    need(
        len(utility.shares) > 0 and all(0 < share <= 1 for share in utility.shares),
        f"utility.shares {list(utility.shares)} are not all in (0, 1]",
    )
    need(
        len(set(utility.shares)) == len(utility.shares),
        f"utility.shares {list(utility.shares)} name a share twice: remove one",
    )
    need(
        set(utility.side_shares) <= set(utility.shares),
        f"utility.side_shares {list(utility.side_shares)} are not all among utility.shares: add them there",
    )
    need(
        0 < utility.synthetic_share < 1,
        f"utility.synthetic_share {utility.synthetic_share} is not between 0 and 1: some real and some generated frames are needed",
    )


def _check_anatomy(profile, need) -> None:
    anatomy, diffusion = profile.anatomy, profile.diffusion
    need(
        anatomy.to_latent in ("unshuffle", "area"), f"anatomy.to_latent {anatomy.to_latent!r} is not unshuffle or area"
    )
    need(
        0 < anatomy.edge_low <= anatomy.edge_high,
        f"anatomy.edge_low {anatomy.edge_low} and edge_high {anatomy.edge_high} are not 0 < low ≤ high",
    )
    need(0 < anatomy.least_share <= 1, f"anatomy.least_share {anatomy.least_share} is not in (0, 1]")
    need(0 <= anatomy.condition_dropout < 1, f"anatomy.condition_dropout {anatomy.condition_dropout} is not in [0, 1)")
    need(
        profile.acdc.val_fraction + profile.acdc.test_fraction < 1,
        "acdc.val_fraction + acdc.test_fraction leave no patient to train on: lower one",
    )
    need(
        len(profile.acdc.percentiles) == 2 and 0 <= profile.acdc.percentiles[0] < profile.acdc.percentiles[1] <= 100,
        f"acdc.percentiles {list(profile.acdc.percentiles)} are not two rising numbers from 0 to 100",
    )
    for name in ("anatomy", "spade"):
        decay = getattr(profile, name).ema_decay
        need(0 <= decay < 1, f"{name}.ema_decay {decay} is not in [0, 1)")
    need(
        len(profile.spade.betas) == 2 and all(beta < 1 for beta in profile.spade.betas),
        f"spade.betas {list(profile.spade.betas)} are not two numbers below 1",
    )
    need(
        len(profile.spade.channels) > 0 and profile.autoencoder.image_size % 2 ** len(profile.spade.channels) == 0,
        f"frames of {profile.autoencoder.image_size}² cannot be halved {len(profile.spade.channels)} times: shorten spade.channels",
    )
    need(
        anatomy.base_channels % diffusion.norm_groups == 0,
        f"anatomy.base_channels {anatomy.base_channels} do not divide into {diffusion.norm_groups} normalisation groups: change diffusion.norm_groups",
    )
    need(
        anatomy.scheduler in ("ddpm", "ddim", "dpmsolver++", "unipc"),
        f"anatomy.scheduler {anatomy.scheduler!r} is not ddpm, ddim, dpmsolver++ or unipc",
    )


def _check_lesion_extras(profile, need) -> None:
    """Sections ct_perfusion, pix2pix (notebook 23) and lesion_sentences (notebook 24)."""
    scan, gan, asked, size = (
        profile.ct_perfusion,
        profile.pix2pix,
        profile.lesion_sentences,
        profile.autoencoder.image_size,
    )
    need(scan.target in ("dwi", "adc"), f"ct_perfusion.target {scan.target!r} is not dwi or adc")
    need(
        scan.train_fraction + scan.val_fraction < 1,
        "ct_perfusion.train_fraction + ct_perfusion.val_fraction leave no patients to test: lower one",
    )
    for name in ("hu_window", "adc_window", "percentiles"):
        ends = getattr(scan, name)
        need(len(ends) == 2 and ends[0] < ends[1], f"ct_perfusion.{name} {list(ends)} are not two rising numbers")
    levels = len(gan.channels)
    need(
        levels > 0 and size % 2**levels == 0 and size >> levels >= 2,
        f"frames of {size}² cannot be halved {levels} times to 2² or more: shorten pix2pix.channels",
    )
    need(0 <= gan.dropout < 1, f"pix2pix.dropout {gan.dropout} is not in [0, 1)")
    need(0 <= gan.beta_1 < 1, f"pix2pix.beta_1 {gan.beta_1} is not in [0, 1)")
    need(
        len(asked.judge_channels) == 6 and asked.judge_size % 16 == 0,
        "lesion_sentences.judge_channels need six numbers, and judge_size a multiple of 16: the network halves four times",
    )


def _check_lesions(profile, need) -> None:
    lesions, post, diffusion = profile.lesions, profile.post_training, profile.diffusion
    for section, names in (
        (lesions, "patients series_per_study base_channels batch_size learning_rate steps sampling_steps"),
        (post, "steps learning_rate batch_size"),
    ):
        title = "lesions" if section is lesions else "post_training"
        for name in names.split():
            need(getattr(section, name) > 0, f"{title}.{name} is 0: it must be positive")
    need(
        lesions.source_as in ("unshuffle", "latent"),
        f"lesions.source_as {lesions.source_as!r} is not unshuffle or latent",
    )
    need(0 <= lesions.lesion_share <= 1, f"lesions.lesion_share {lesions.lesion_share} is not in [0, 1]")
    need(
        0 < lesions.train_fraction and lesions.train_fraction + lesions.val_fraction < 1,
        f"lesions.train_fraction {lesions.train_fraction} and val_fraction {lesions.val_fraction} leave no test patients: lower one",
    )
    need(0 <= lesions.ema_decay < 1, f"lesions.ema_decay {lesions.ema_decay} is not in [0, 1)")
    need(
        lesions.base_channels % diffusion.norm_groups == 0,
        f"lesions.base_channels {lesions.base_channels} do not divide into {diffusion.norm_groups} normalisation groups: change diffusion.norm_groups",
    )
    need(
        lesions.scheduler in ("ddpm", "ddim", "dpmsolver++", "unipc"),
        f"lesions.scheduler {lesions.scheduler!r} is not ddpm, ddim, dpmsolver++ or unipc",
    )
    need(
        0 < post.latest <= 1,
        f"post_training.latest {post.latest} is not in (0, 1]: it is the share of the timesteps, from clean on, that get image losses",
    )

"""The `train:` section: optimizers, schedules of the learning rate, when to stop, where to start.

Knows nothing of torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from medunet.config.section import Fraction, Positive, PositiveFloat, Section, as_tuple

Duration = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? *(s|sec|min|h)$", examples=["90s", "30min", "12h"])]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, lt=1)]
Metric = Annotated[str, Field(min_length=1, examples=["dice", "dice/liver", "loss", "validation_loss"])]


class SgdConfig(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    lr: PositiveFloat = 0.01
    """Learning rate at the start."""
    momentum: Moment = 0.99
    """Momentum."""
    nesterov: bool = True
    """Nesterov's variant."""
    weight_decay: NonNegative = 3e-5
    """L2 penalty."""


class AdaptiveOptions(Section):
    """Options of optimizers that scale every step by moments of the gradient."""

    name: str
    """Which optimizer."""
    lr: PositiveFloat = 1e-3
    """Learning rate at the start."""
    betas: tuple[Moment, Moment] = (0.9, 0.999)
    """How slowly the averages of the gradient and of its square move."""


class AdamConfig(AdaptiveOptions):
    """Adam (Kingma 2015)."""

    name: Literal["adam"]
    weight_decay: NonNegative = 0.0
    """L2 penalty."""


class AdamWConfig(AdaptiveOptions):
    """Adam with decoupled weight decay (Loshchilov 2019)."""

    name: Literal["adamw"]
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""


class NovoGradConfig(AdaptiveOptions):
    """NovoGrad (Ginsburg 2019): one second moment per layer; MONAI's."""

    name: Literal["novograd"]
    betas: tuple[Moment, Moment] = (0.95, 0.98)
    """How slowly the averages of the gradient and of its squared norm move."""
    weight_decay: NonNegative = 0.001
    """Weight decay."""


OptimizerConfig = Annotated[SgdConfig | AdamConfig | AdamWConfig | NovoGradConfig, Field(discriminator="name")]


class WarmupOptions(Section):
    """Options of schedules that may start gently."""

    name: str
    """Which schedule."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training during which the rate rises linearly from 0."""


class PolyConfig(WarmupOptions):
    """lr * (1 - progress) ** power, as in nnU-Net."""

    name: Literal["poly"]
    power: PositiveFloat = 0.9
    """Exponent."""


class CosineConfig(WarmupOptions):
    """Half a cosine from lr to 0."""

    name: Literal["cosine"]


class ConstantConfig(WarmupOptions):
    """The same learning rate throughout."""

    name: Literal["constant"]


class OneCycleConfig(Section):
    """Half a cosine up to lr, then half a cosine down (Smith 2018)."""

    name: Literal["one_cycle"]
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training during which the rate rises."""
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.04
    """Rate at the start, as a share of lr."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 4e-6
    """Rate at the end, as a share of lr."""


class PlateauConfig(WarmupOptions):
    """The rate is lowered when a metric stops getting better (torch's ReduceLROnPlateau)."""

    name: Literal["plateau"]
    metric: Metric = "validation_loss"
    """What is watched: `loss`, `validation_loss`, `dice`, or `dice/LABEL`. Losses shall fall, the others rise."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the rate is multiplied by."""
    patience: Annotated[int, Field(ge=0)] = 5
    """How often in a row the metric may be measured without getting better before the rate is lowered."""
    min_delta: NonNegative = 1e-4
    """A smaller change is none."""
    min_lr: NonNegative = 0.0
    """The rate does not fall below this."""


ScheduleConfig = Annotated[
    PolyConfig | CosineConfig | ConstantConfig | OneCycleConfig | PlateauConfig, Field(discriminator="name")
]


class EarlyStopConfig(Section):
    """Ends the training when a metric stops getting better."""

    metric: Metric = "dice"
    """What is watched: `loss`, `validation_loss`, `dice`, or `dice/LABEL`. Losses shall fall, the others rise."""
    patience: Positive = 15
    """After how many measurements in a row without getting better the training ends."""
    min_delta: NonNegative = 1e-4
    """A smaller change is none."""


class FreezeConfig(Section):
    """Layers that keep their weights."""

    layers: Annotated[str, Field(min_length=1, examples=["encoder*", "*.norm*"])]
    """Pattern of parameter names (`*`, `?`, `[...]`); `medunet info MODEL --layers` lists them."""
    epochs: Positive | None = None
    """They learn after so many epochs; null: never."""


class RateConfig(Section):
    """Layers that learn faster or slower than the others."""

    layers: Annotated[str, Field(min_length=1, examples=["encoder*"])]
    """Pattern of parameter names, as in `freeze`."""
    factor: PositiveFloat = 0.1
    """Times the rate of the schedule."""


class TrainConfig(Section):
    """How the network is trained."""

    patch_size: tuple[Positive, ...] = (128, 128, 96)
    """Voxels per axis that the network sees at once; of them `unet2015` segments all but its margin (92 on each side
    in 2D, 44 in 3D)."""
    batch_size: Positive = 2
    """Patches per step, those of all processes together."""
    accumulate: Positive = 1
    """Parts that each batch is worked through in, one after the other, so that it needs the memory of one."""
    epochs: Positive = 500
    """Number of epochs; `budget` may end the training earlier."""
    iterations_per_epoch: Positive = 250
    """Steps per epoch."""
    budget: Duration | None = None
    """Time for the training, such as 30min or 12h; the schedule is drawn over it. Null: `epochs` decides."""
    foreground: Fraction = 0.33
    """Share of each batch that is centred on a labelled voxel (nnU-Net: 0.33)."""
    optimizer: OptimizerConfig = SgdConfig(name="sgd")
    """Optimizer."""
    schedule: ScheduleConfig = PolyConfig(name="poly")
    """How the learning rate falls."""
    early_stop: EarlyStopConfig | None = None
    """When to end before the last epoch; null: never."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, such as 0.999, which is validated and becomes the model; null: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the device computes it natively, fp16 on older GPUs, else fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Let torch compile the network; `auto`: on CUDA. Where that fails, training goes on without, and says so."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, slower."""
    clip_norm: PositiveFloat | None = 12.0
    """Largest norm of the gradient; null: no clipping."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that prepare patches; 0: a thread of this process. `auto`: up to 8 beside a GPU; on a CPU 1 in 2D and 0
    in 3D."""
    save_every: Duration | None = "10min"
    """Longest time between two checkpoints; there is one after every epoch anyway. Null: only then."""
    start_from: Annotated[str, Field(min_length=1)] | None = None
    """Model folder, run folder or checkpoint whose weights are taken where name and shape agree; null: random."""
    freeze: Annotated[
        tuple[FreezeConfig, ...],
        BeforeValidator(as_tuple, json_schema_input_type=FreezeConfig | tuple[FreezeConfig, ...]),
    ] = ()
    """Layers that keep their weights, for a while or throughout."""
    rates: Annotated[
        tuple[RateConfig, ...],
        BeforeValidator(as_tuple, json_schema_input_type=RateConfig | tuple[RateConfig, ...]),
    ] = ()
    """Layers that learn at another rate, such as an encoder that is only to be fine-tuned; where several patterns name
    a layer, the last counts."""

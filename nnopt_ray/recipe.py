"""What a page can say of training: the section `train`, and the sections inside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nnopt_ray.section import Beside, Count, Fixed, InRoom, Mode, NonNegative, Positive, Section, by_default
from nnopt_ray.tables import Part


class EarlyStopping(Section):
    """Stop when the monitored value has not improved for `patience` epochs (Keras' meaning)."""

    monitor: str = Field(
        default="objective", description="a metric such as val_loss; objective: what the page optimizes"
    )
    patience: Annotated[int, Field(ge=0)] = Field(default=0, description="epochs without improvement before stopping")
    min_delta: Annotated[float, Field(allow_inf_nan=False)] = Field(
        default=0.0, description="smallest change that counts as improvement"
    )
    mode: Mode = Field(default="auto", description="auto: the metric knows its direction")
    baseline: float | None = Field(default=None, description="the value to beat; without it the wait goes on")
    start_from_epoch: Annotated[int, Field(ge=0)] = Field(default=0, description="epochs to wait before watching")
    restore_best_weights: bool = Field(default=False, description="go back to the weights of the best epoch at the end")
    verbose: bool = Field(default=False, description="say each decision in the log of epochs")


class Checkpoint(Section):
    """When the state of training is written, and how many files are kept."""

    every: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="epochs between checkpoints; auto: as often as costs at most about 3 % of the time"
    )
    keep: Count = Field(default=2, description="newest checkpoints kept, beside the best epoch's")


class Start(Section):
    """Start from the weights of an earlier run; a word alone is the run."""

    bare = "run"

    run: Annotated[str, Beside(), Fixed("it names one place")] = Field(
        description="a run folder, or a trial's folder inside one"
    )
    epoch: Annotated[int, Field(ge=0)] | Literal["best", "last"] = Field(
        default="best", description="which epoch's weights"
    )
    optimizer: bool = Field(
        default=False, description="true: continue with the optimizer's state; false: fine-tune afresh"
    )


class Ema(Section):
    """An exponential moving average of the weights, step by step (Polyak & Juditsky 1992).

    It is what is validated, kept as best and ended with. Running statistics of norms are averaged alike.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.999, description="share that a step keeps of it")
    warmup: bool = Field(
        default=True,
        description="keep at most (1 + n) / (10 + n) in step n, so that the first weights are soon forgotten",
    )


class Swa(Section):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights at the ends of the last epochs.

    From `start_epoch` on it is what is validated, kept as best and ended with. Statistics of batch norm are taken
    anew from the training part, for the averaged weights.
    """

    start_epoch: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="the first epoch that is averaged, from 0; without it after three quarters of them"
    )
    lr: Positive | None = Field(
        default=None, description="learning rate from start_epoch on; without it the schedule's goes on"
    )
    anneal_epochs: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs in which the learning rate goes from the schedule's to lr, in a cosine"
    )


class Mix(Section):
    """Train on mixtures of two rows; a word alone is the type."""

    bare = "type"

    type: Literal["mixup", "cutmix"] = Field(
        description="mixup: the weighted mean of two rows (Zhang et al. 2018); cutmix: a piece of one image in another "
        "(Yun et al. 2019)"
    )
    alpha: Positive | None = Field(
        default=None,
        description="shares come from Beta(alpha, alpha): the smaller, the nearer to 0 or 1; without it 0.2 for mixup, "
        "1 for cutmix",
    )


class Train(Section):
    """Training of one network."""

    epochs: Count = Field(default=20, description="passes over the training part, at most")
    batch_size: Count = Field(default=64, description="rows a batch")
    sampling: Literal["shuffled", "balanced"] = Field(
        default="shuffled",
        description="shuffled: every training row once an epoch; balanced: classes take turns, so that each batch has "
        "as many rows of every class; those of rare classes come several times, and an epoch is no longer",
    )
    accumulate: Count = Field(
        default=1, description="batches that an optimizer step takes, by the mean over all their rows"
    )
    optimizer: Annotated[Part, InRoom("optimizer")] = Field(
        default=by_default("adam"), description="how gradients are applied"
    )
    weight_decay_on: Literal["weights", "all"] = Field(
        default="weights",
        description="weights: the optimizer's weight_decay leaves out biases and the weights of norms; "
        "all: it leaves out nothing, as in torch.optim",
    )
    loss: Annotated[Part, InRoom("loss")] = Field(default=by_default("auto"), description="what training minimizes")
    schedule: Annotated[Part, InRoom("schedule")] = Field(
        default=by_default("constant"), description="the learning rate over time"
    )
    warmup_epochs: NonNegative = Field(default=0.0, description="epochs of linear warm-up in front of the schedule")
    early_stopping: EarlyStopping | None = Field(default=None, description="when to stop before `epochs`")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="when the state is written")
    clip_norm: Positive | None = Field(default=None, description="largest norm of the gradient of all weights together")
    clip_value: Positive | None = Field(default=None, description="largest absolute value of one gradient entry")
    l1: NonNegative = Field(default=0.0, description="strength of the L1 penalty on all weights")
    l1_form: Literal["subgradient", "proximal"] = Field(
        default="subgradient",
        description="subgradient: l1 * sign(weight) joins the gradient; proximal: after each step every weight comes "
        "closer to 0 by lr * l1, and those that are no farther off become exactly 0",
    )
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Fixed("it belongs to the machine")] = Field(
        default="auto",
        description="number format of the forward and backward pass; float16 scales the loss; weights stay float32",
    )
    compile: bool = Field(
        default=False,
        description="let torch.compile make one program of forward pass, loss and gradient; on a CPU it needs a C++ "
        "compiler, and seconds to minutes before the first step",
    )
    mix: Mix | None = Field(default=None, description="train on mixtures of two rows, their targets mixed alike")
    ema: Ema | None = Field(default=None, description="average the weights over the last steps")
    swa: Swa | None = Field(default=None, description="average the weights over the last epochs")
    start: Start | None = Field(default=None, alias="from", description="start from an earlier run's weights")
    freeze: Annotated[int, Field(ge=1)] | Literal["all_but_head"] | None = Field(
        default=None, description="layers, counted from the inputs, that keep the weights they begin with"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="share of the learning rate that each layer has of the layer behind it, the head's is lr",
    )

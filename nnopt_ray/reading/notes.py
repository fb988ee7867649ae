"""What a page says that is no fault, but that its writer should know before it runs."""

from __future__ import annotations

from nnopt_ray.experiment import Experiment, count


def notes(experiment: Experiment) -> tuple[str, ...]:
    """Sentences, in the order of the page."""
    return tuple(
        sentence for sentence in (_other_losses(experiment), _frozen(experiment), _countable(experiment)) if sentence
    )


LOSS_OF_ITS_OWN = ("label_smoothing", "class_weights", "delta")  # keys of which each value makes another loss


def _other_losses(experiment: Experiment) -> str | None:
    """Where trials are compared by losses that do not mean the same."""
    if experiment.metric != "val_loss":
        return None
    opened = [path for path, _ in experiment.space]
    if isinstance(experiment.search.trials, tuple):
        opened += [path for trial in experiment.search.trials for path in trial]
    for path in opened:
        key = path.removeprefix("train.loss").removeprefix(".")
        if path.startswith("train.loss") and (not key or key in LOSS_OF_ITS_OWN):
            what = f"{path} changes what the loss measures"
            other = "minimize val_mae" if key == "delta" else "maximize val_accuracy or minimize val_log_loss"
            if not key:
                other += ", or of numbers minimize val_mae"
            return f"{what}, so val_loss of two trials is not the same thing: choose {other} as objective."
    return None


def _frozen(experiment: Experiment) -> str | None:
    """Where layers are frozen that have learned nothing."""
    keys = experiment.model.keys
    if experiment.train.freeze is None or experiment.train.start is not None:
        return None
    if keys.get("weights") or keys.get("pretrained") or ":" in experiment.model.type:
        return None
    return (
        "train.freeze keeps layers at the weights they begin with, and here these are random first weights: give them "
        "by train.from, or by model.weights where the model has it."
    )


def _countable(experiment: Experiment) -> str | None:
    """Where a space has fewer points than the page asks trials of, or a grid is not run to its end."""
    trials, points = experiment.search.trials, count(experiment.tree)
    if not experiment.space or not isinstance(trials, int) or points is None:
        return None
    if trials > points:
        return f"The space has only {points} points, and search.trials is {trials}: {points} trials will run."
    if experiment.search.method.type == "grid" and trials < points:
        return (
            f"The grid has {points} points, and search.trials is {trials}: only the first {trials} will run, the last "
            "opened value of the page moving fastest."
        )
    return None

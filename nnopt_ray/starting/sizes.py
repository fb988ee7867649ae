"""How much training a first search may be, so that it ends in minutes on two cores of a laptop."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET_S = 240.0  # of two cores for a first search
SPARED = 3.0  # ASHA trains about a third of the epochs that all trials would take
FIXED_S = 0.5  # a trial's own start and end

# Seconds that one row takes forward and backward on one core, roughly: of an image by its pixels (a ResNet of depth 8),
# of a text by its tokens (BERT tiny: jobs/docstrings_bert.yaml, 1,200 rows of 96 tokens, 12 epochs, 110 s), of a
# sequence by its steps (a GRU of 64), of a table by its columns.
PER_PIXEL_S = 2e-6
PER_TOKEN_S = 8e-5
PER_STEP_S = 6e-6
PER_ROW_S, PER_COLUMN_S = 6e-6, 4e-8


@dataclass(frozen=True)
class Sizes:
    """trials: 0 where a search would not end in time: a single training is. batch_sizes: the middle one for that."""

    epochs: int
    trials: int
    batch_sizes: tuple[int, ...]


def sizes(row_s: float, training_rows: int, epochs: int, trials: int) -> Sizes:
    """At most these epochs and trials, less where a row takes long. row_s: seconds a row, forward and backward."""
    epoch_s = row_s * training_rows
    least = 6
    while epochs > 8 and epochs * epoch_s > BUDGET_S / 4:
        epochs = max(8, epochs * 2 // 3)
    able = int(2 * BUDGET_S / (epochs * epoch_s / SPARED + FIXED_S))
    batches = (16, 32, 64) if training_rows < 2000 else (32, 64, 128) if training_rows < 20_000 else (128, 256, 512)
    return Sizes(epochs, min(trials, able) if able >= least else 0, batches)


__all__ = ["Sizes", "sizes"]

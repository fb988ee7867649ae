"""Pages that are closed and written many times, as those of a search's trials: what is remembered changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnopt_ray import reading
from nnopt_ray.errors import PageError
from nnopt_ray.experiment import plain
from nnopt_ray.reading import yaml_text

PAGE = """
name: many
seed: {int: [0, 3]}
data:
  source: {type: sklearn, name: digits}
  steps: [{choice: [{type: scale, method: minmax}, scale]}]
model: {type: mlp, widths: {choice: [[8], [8, 4]]}, dropout: {uniform: [0, 0.5]}}
train:
  epochs: {int: [1, 5]}
  warmup_epochs: {uniform: [0, 1]}
  optimizer:
    choice:
      - {type: adam, lr: {log: [1e-4, 1e-1]}}
      - {type: sgd, lr: {log: [1e-4, 1e-1]}, momentum: {uniform: [0.5, 0.9]}}
search: {trials: 3}
"""
# Equal as Python numbers and not on a page: 1, 1.0 and true; 0 and -0.0.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.sampled_from([0, 1, 1.0, True]),
    "data.steps.0": st.sampled_from(["scale", "scale#2"]),
    "model.widths": st.sampled_from(["[8]", "[8, 4]", [8], [8.0]]),
    "model.dropout": st.sampled_from([0, 0.0, -0.0, False, 0.25]),
    "train.epochs": st.sampled_from([1, 5, 5.0, True]),
    "train.warmup_epochs": st.sampled_from([0, 0.0, 1, True]),
    "train.optimizer": st.sampled_from(["adam", "sgd"]),
    "train.optimizer.lr": st.sampled_from([1, 0.01, True, "0.01"]),
}


GOOD = dict(zip(VALUES, (1, "scale", "[8]", 0.25, 5, 0.0, "adam", 0.01), strict=True))


@st.composite
def points(draw: st.DrawFn) -> dict[str, Any]:
    """A good point with a value or two of another kind."""
    paths = draw(st.lists(st.sampled_from(list(VALUES)), max_size=2))
    point = GOOD | {path: draw(VALUES[path]) for path in paths}
    return {**point, **({"train.optimizer.momentum": 0.5} if point["train.optimizer"] == "sgd" else {})}


def closed(experiment: Any, point: dict[str, Any]) -> Any:
    """Everything that a page says, or that is wrong with it."""
    try:
        page = reading.close(experiment, point)
    except PageError as error:
        return str(error)
    return repr(plain(page.tree)), repr(page), reading.dump(page)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(listed=st.lists(points(), min_size=2, max_size=6))
def test_a_page_closed_after_others_is_the_page_closed_first(listed: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(PAGE)
    experiment = reading.load(tmp_path / "page.yaml")
    after_others = [closed(experiment, point) for point in listed]
    assert after_others == [closed(reading.load(tmp_path / "page.yaml"), point) for point in listed]


LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=150)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=150), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(tree=st.dictionaries(st.text(max_size=150), TREES, max_size=4))
def test_text_written_in_pieces_is_the_text_written_at_once(tree: dict[str, Any]) -> None:
    text = yaml_text.write(tree)
    whole = yaml.serialize(
        yaml_text._node(tree, 0), Dumper=yaml_text._FAST, allow_unicode=True, width=110, encoding=None
    )
    assert text == whole

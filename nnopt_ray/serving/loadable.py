"""The network as weights in safetensors, and ten lines that load it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import reading, rundir, tables
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.serving import network
from nnopt_ray.serving.network import Rows

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, GRAPH, PAGE, SHAPES = "model.safetensors", "network.pt2", "page.yaml", "dataset.json"

# torch.export's program is the network without its classes. Its own copy of the weights is overwritten.
ALONE = f'''"""The network as PyTorch module: `from load import model`. Needs torch and safetensors alone."""

from pathlib import Path

import torch
from safetensors.torch import load_file

here = Path(__file__).parent
model = torch.export.load(here / "{GRAPH}").module()
model.load_state_dict(load_file(here / "{WEIGHTS}"))
'''

REBUILT = f'''"""The network as PyTorch module: `from load import model`. Needs nnopt_ray, torch and safetensors."""

from pathlib import Path

from safetensors.torch import load_file

import nnopt_ray
from nnopt_ray.serving.loadable import rebuilt

here = Path(__file__).parent
model = rebuilt(nnopt_ray.load(here / "{PAGE}"), here / "{SHAPES}").eval()
model.load_state_dict(load_file(here / "{WEIGHTS}"))
'''


def rebuilt(experiment: Experiment, dataset_json: Path) -> nn.Module:
    """The network of a page with its first weights, for data of these shapes: for training on."""
    from nnopt_ray.data.store import read_shapes

    model: nn.Module = tables.build("model", experiment.model, read_shapes(dataset_json))
    return model


def written(
    model: nn.Module, weights: Path, experiment: Experiment, dataset_json: Path, rows: Rows, folder: Path
) -> float:
    """Write the network into the folder; the largest difference over these rows. Raises RunFailed where it is large.

    The loader needs no nnopt where torch.export can express the network.
    """
    shutil.copyfile(weights, folder / WEIGHTS)
    shutil.copyfile(dataset_json, folder / SHAPES)
    rundir.write_text(folder / PAGE, reading.dump(experiment))
    try:
        network.torch_export(model, rows, folder / GRAPH)
    except UserError:
        (folder / GRAPH).unlink(missing_ok=True)
    alone = (folder / GRAPH).is_file()
    rundir.write_text(folder / "load.py", ALONE if alone else REBUILT)
    return network.compared(model, rows, loaded(folder, None if alone else experiment), "safetensors")


def loaded(folder: Path, experiment: Experiment | None) -> Any:
    """What load.py does. experiment: of a network that is rebuilt."""
    import torch
    from safetensors.torch import load_file

    if experiment is not None:
        model = rebuilt(experiment, folder / SHAPES).eval()
    else:
        model = torch.export.load(folder / GRAPH).module()
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model


__all__ = ["ALONE", "GRAPH", "REBUILT", "loaded", "rebuilt", "written"]

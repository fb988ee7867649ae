"""Ray Train's cleaner, asking its own cluster. A Ray door.

An actor of Ray Train asks each second whether the controller of a training still lives, and takes the workers' places
away when it does not. It asks through `ray.util.state.get_actor`, which without RAY_ADDRESS takes the cluster that was
last started with `ray start` on its machine (services.py, `get_ray_address_from_environment`). One that is started
while a training runs does not know its controller, and the training loses all of its workers (seen with Ray 2.60).
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.train.v2._internal.callbacks import placement_group_callback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller.placement_group_cleaner import PlacementGroupCleaner


class OwnClusterCleaner(PlacementGroupCleaner):  # type: ignore[misc]
    """The actor."""

    def __init__(self, *arguments: Any, **keys: Any) -> None:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        super().__init__(*arguments, **keys)


class OwnClusterCallback(PlacementGroupCleanerCallback):  # type: ignore[misc]
    """What starts it, in the controller's process."""

    def after_controller_start(self, *arguments: Any, **keys: Any) -> None:
        """As Ray's."""
        placement_group_callback.PlacementGroupCleaner = OwnClusterCleaner
        super().after_controller_start(*arguments, **keys)

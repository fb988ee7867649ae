"""What happens in a run, told to TensorBoard, MLflow or Weights & Biases as well."""

from __future__ import annotations

TRACKERS: dict[str, str] = {
    "tensorboard": "nnopt_ray.tracking.tensorboard:TensorBoard",
    "mlflow": "nnopt_ray.tracking.mlflow:MLflow",
    "wandb": "nnopt_ray.tracking.wandb:Wandb",
}

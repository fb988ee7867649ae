"""ROOM 5: how good a model is. Its table; see evaluate.py for the door."""

METRICS: dict[str, str] = {
    "loss": "nnopt_ray.evaluate.metrics:Loss",
    "accuracy": "nnopt_ray.evaluate.metrics:Accuracy",
    "balanced_accuracy": "nnopt_ray.evaluate.metrics:BalancedAccuracy",
    "precision": "nnopt_ray.evaluate.metrics:Precision",
    "recall": "nnopt_ray.evaluate.metrics:Recall",
    "f1": "nnopt_ray.evaluate.metrics:F1",
    "roc_auc": "nnopt_ray.evaluate.metrics:RocAuc",
    "log_loss": "nnopt_ray.evaluate.metrics:LogLoss",
    "mae": "nnopt_ray.evaluate.metrics:MeanAbsoluteError",
    "rmse": "nnopt_ray.evaluate.metrics:RootMeanSquaredError",
    "r2": "nnopt_ray.evaluate.metrics:R2",
    "perplexity": "nnopt_ray.evaluate.language:Perplexity",
    "token_accuracy": "nnopt_ray.evaluate.language:TokenAccuracy",
}

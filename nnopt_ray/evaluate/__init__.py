"""ROOM 5: how good a model is, and why it says what it says. Its tables; evaluate.py and explain.py are the doors."""

METRICS: dict[str, str] = {
    "loss": "nnopt_ray.evaluate.metrics:Loss",
    "accuracy": "nnopt_ray.evaluate.classes:Accuracy",
    "balanced_accuracy": "nnopt_ray.evaluate.classes:BalancedAccuracy",
    "precision": "nnopt_ray.evaluate.classes:Precision",
    "recall": "nnopt_ray.evaluate.classes:Recall",
    "f1": "nnopt_ray.evaluate.classes:F1",
    "weighted_f1": "nnopt_ray.evaluate.classes:WeightedF1",
    "mcc": "nnopt_ray.evaluate.classes:MatthewsCorrelation",
    "roc_auc": "nnopt_ray.evaluate.ranking:RocAuc",
    "pr_auc": "nnopt_ray.evaluate.ranking:PrAuc",
    "log_loss": "nnopt_ray.evaluate.probabilities:LogLoss",
    "brier": "nnopt_ray.evaluate.probabilities:Brier",
    "ece": "nnopt_ray.evaluate.probabilities:ExpectedCalibrationError",
    "mae": "nnopt_ray.evaluate.amounts:MeanAbsoluteError",
    "rmse": "nnopt_ray.evaluate.amounts:RootMeanSquaredError",
    "r2": "nnopt_ray.evaluate.amounts:R2",
    "mape": "nnopt_ray.evaluate.amounts:MeanAbsolutePercentageError",
    "smape": "nnopt_ray.evaluate.amounts:SymmetricMape",
    "perplexity": "nnopt_ray.evaluate.language:Perplexity",
    "token_accuracy": "nnopt_ray.evaluate.language:TokenAccuracy",
}

EXPLAINERS: dict[str, str] = {
    "grad_cam": "nnopt_ray.evaluate.explain_images:GradCam",
    "guided_grad_cam": "nnopt_ray.evaluate.explain_images:GuidedGradCam",
    "attention_rollout": "nnopt_ray.evaluate.explain_images:AttentionRollout",
    "saliency": "nnopt_ray.evaluate.explain_gradients:Saliency",
    "integrated_gradients": "nnopt_ray.evaluate.explain_gradients:IntegratedGradients",
    "shap": "nnopt_ray.evaluate.explain_features:Shap",
    "lime": "nnopt_ray.evaluate.explain_features:Lime",
    "permutation": "nnopt_ray.evaluate.explain_features:Permutation",
}

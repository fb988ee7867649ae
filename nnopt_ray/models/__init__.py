"""ROOM 2: networks. A model is built from Shapes (positional) and its keys, and is a torch.nn.Module."""

MODELS: dict[str, str] = {
    "baseline": "nnopt_ray.models.baseline:Baseline",
    "bert": "nnopt_ray.models.bert:BERT",
    "gpt": "nnopt_ray.models.gpt:GPT",
    "mlp": "nnopt_ray.models.mlp:MLP",
    "resnet": "nnopt_ray.models.resnet:ResNet",
    "vgg": "nnopt_ray.models.vgg:VGG",
    "efficientnet": "nnopt_ray.models.efficientnet:EfficientNet",
    "vit": "nnopt_ray.models.vit:ViT",
    "rnn": "nnopt_ray.models.rnn:RNN",
}

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

# Names that people look for under another: what to write.
OTHER_NAMES: dict[str, str] = {
    "lstm": "{type: rnn, cell: lstm}",
    "gru": "{type: rnn, cell: gru}",
    "cnn": "resnet, vgg or efficientnet",
    "transformer": "bert, gpt (texts) or vit (images)",
    **{f"resnet{depth}": f"{{type: resnet, depth: {depth}}}" for depth in (18, 34, 50, 101)},
    **{f"vgg{depth}": f"{{type: vgg, depth: {depth}}}" for depth in (11, 13, 16, 19)},
    "gpt2": "{type: gpt, size: small}",
    "linear": "{type: baseline, kind: linear}",
}

# `type: PREFIX/NAME`: networks of other libraries. "module:function" gives the class for a NAME.
LIBRARIES: dict[str, str] = {
    "timm": "nnopt_ray.models.timm_networks:network",
    "hf": "nnopt_ray.models.hf_networks:network",
}

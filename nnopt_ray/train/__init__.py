"""ROOM 3: training one network. Its tables; see loop.py for the core."""

OPTIMIZERS: dict[str, str] = {
    "adam": "nnopt_ray.train.optimizers:Adam",
    "adamw": "nnopt_ray.train.optimizers:AdamW",
    "sgd": "nnopt_ray.train.optimizers:SGD",
    "rmsprop": "nnopt_ray.train.optimizers:RMSprop",
}

SCHEDULES: dict[str, str] = {
    "constant": "nnopt_ray.train.schedules:Constant",
    "step": "nnopt_ray.train.schedules:Step",
    "exponential": "nnopt_ray.train.schedules:Exponential",
    "multi_step": "nnopt_ray.train.schedules:MultiStep",
    "polynomial": "nnopt_ray.train.schedules:Polynomial",
    "cosine": "nnopt_ray.train.schedules:Cosine",
    "cosine_restarts": "nnopt_ray.train.schedules:CosineRestarts",
    "one_cycle": "nnopt_ray.train.schedules:OneCycle",
    "reduce_on_plateau": "nnopt_ray.train.schedules:ReduceOnPlateau",
}

AUGMENTATIONS: dict[str, str] = {
    "random_crop": "nnopt_ray.train.image_augmentations:RandomCrop",
    "flip": "nnopt_ray.train.image_augmentations:Flip",
    "rotate": "nnopt_ray.train.image_augmentations:Rotate",
    "affine": "nnopt_ray.train.image_augmentations:Affine",
    "colour": "nnopt_ray.train.image_augmentations:Colour",
    "erase": "nnopt_ray.train.image_augmentations:Erase",
    "rand_augment": "nnopt_ray.train.rand_augment:RandAugment",
    "noise": "nnopt_ray.train.augmentations:Noise",
    "feature_swap": "nnopt_ray.train.augmentations:FeatureSwap",
    "scaling": "nnopt_ray.train.sequence_augmentations:Scaling",
    "time_shift": "nnopt_ray.train.sequence_augmentations:TimeShift",
    "window_slice": "nnopt_ray.train.sequence_augmentations:WindowSlice",
    "time_warp": "nnopt_ray.train.sequence_augmentations:TimeWarp",
    "word_swap": "nnopt_ray.train.text_augmentations:WordSwap",
    "word_delete": "nnopt_ray.train.text_augmentations:WordDelete",
    "word_insert": "nnopt_ray.train.text_augmentations:WordInsert",
    "mask_words": "nnopt_ray.train.text_augmentations:MaskWords",
    "synonyms": "nnopt_ray.train.text_augmentations:Synonyms",
    "paraphrase": "nnopt_ray.train.text_augmentations:Paraphrase",
}

LOSSES: dict[str, str] = {
    "auto": "nnopt_ray.train.losses:Auto",
    "cross_entropy": "nnopt_ray.train.losses:CrossEntropy",
    "mse": "nnopt_ray.train.losses:MeanSquaredError",
    "mae": "nnopt_ray.train.losses:MeanAbsoluteError",
    "huber": "nnopt_ray.train.losses:Huber",
}

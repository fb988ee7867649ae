"""ROOM 1: data. Its tables; see prepare.py for the way from a source to a Dataset."""

SOURCES: dict[str, str] = {
    "sklearn": "nnopt_ray.data.sources:Sklearn",
    "csv": "nnopt_ray.data.csv_file:Csv",
    "parquet": "nnopt_ray.data.arrow_files:Parquet",
    "arrow": "nnopt_ray.data.arrow_files:Arrow",
    "numpy": "nnopt_ray.data.arrays:Numpy",
    "idx": "nnopt_ray.data.idx:Idx",
    "image_folder": "nnopt_ray.data.image_folder:ImageFolder",
    "hugging_face": "nnopt_ray.data.hugging_face:HuggingFace",
    "sequences": "nnopt_ray.data.long_form:LongForm",
    "wide_sequences": "nnopt_ray.data.wide_form:WideForm",
    "concat": "nnopt_ray.data.concat:Concat",
    "text_lines": "nnopt_ray.data.text_files:TextLines",
}

SPLITS: dict[str, str] = {
    "random": "nnopt_ray.data.split:Random",
    "grouped": "nnopt_ray.data.split:Grouped",
    "time": "nnopt_ray.data.split:Time",
    "given": "nnopt_ray.data.split:Given",
}

FOLDS: dict[str, str] = {
    "auto": "nnopt_ray.data.folds:Auto",
    "k_fold": "nnopt_ray.data.folds:KFold",
    "stratified": "nnopt_ray.data.folds:Stratified",
    "grouped": "nnopt_ray.data.folds:Grouped",
    "time": "nnopt_ray.data.folds:Time",
}

# In the order in which they are run.
CHECKS: dict[str, str] = {
    "missing": "nnopt_ray.data.column_checks:Missing",
    "constant": "nnopt_ray.data.column_checks:Constant",
    "identifiers": "nnopt_ray.data.column_checks:Identifiers",
    "conflicts": "nnopt_ray.data.duplicates:Conflicts",
    "duplicates": "nnopt_ray.data.duplicates:Duplicates",
    "drop_duplicates": "nnopt_ray.data.duplicates:DropDuplicates",
    "near_duplicates": "nnopt_ray.data.near_duplicates:NearDuplicates",
    "outliers": "nnopt_ray.data.outliers:Outliers",
    "label_errors": "nnopt_ray.data.label_errors:LabelErrors",
    "imbalance": "nnopt_ray.data.imbalance:Imbalance",
    "leaks": "nnopt_ray.data.leaks:Leaks",
    "drift": "nnopt_ray.data.drift:Drift",
}

STEPS: dict[str, str] = {
    "impute": "nnopt_ray.data.steps:Impute",
    "scale": "nnopt_ray.data.steps:Scale",
    "encode": "nnopt_ray.data.encode:Encode",
    "clean_text": "nnopt_ray.data.text_cleaning:CleanText",
    "tokenize": "nnopt_ray.data.tokenize:Tokenize",
}

BALANCERS: dict[str, str] = {
    "smote": "nnopt_ray.data.balancers:Smote",
    "smotenc": "nnopt_ray.data.balancers:SmoteNc",
    "adasyn": "nnopt_ray.data.balancers:Adasyn",
    "over": "nnopt_ray.data.balancers:Over",
    "under": "nnopt_ray.data.balancers:Under",
    "tomek": "nnopt_ray.data.balancers:Tomek",
}

"""ROOM 4: search. Its tables; see study.py for the loop."""

SEARCHERS: dict[str, str] = {
    "manual": "nnopt_ray.search.searchers:Manual",
    "grid": "nnopt_ray.search.searchers:Grid",
    "random": "nnopt_ray.search.searchers:Random",
    "bayesian": "nnopt_ray.search.searchers:Bayesian",
}

SCHEDULERS: dict[str, str] = {
    "none": "nnopt_ray.search.schedulers:NoScheduler",
    "asha": "nnopt_ray.search.schedulers:Asha",
}

"""ROOM 4: search. Its tables; see study.py for the loop."""

SEARCHERS: dict[str, str] = {
    "manual": "nnopt_ray.search.searchers:Manual",
    "grid": "nnopt_ray.search.searchers:Grid",
    "random": "nnopt_ray.search.searchers:Random",
    "quasi_random": "nnopt_ray.search.searchers:QuasiRandom",
    "bayesian": "nnopt_ray.search.model_based:Bayesian",
    "gp": "nnopt_ray.search.model_based:Gp",
    "cma_es": "nnopt_ray.search.cma_es:CmaEs",
    "bohb": "nnopt_ray.search.bohb:Bohb",
}

SCHEDULERS: dict[str, str] = {
    "none": "nnopt_ray.search.schedulers:NoScheduler",
    "asha": "nnopt_ray.search.halving:Asha",
    "hyperband": "nnopt_ray.search.hyperband:Hyperband",
    "median": "nnopt_ray.search.median:Median",
    "pbt": "nnopt_ray.search.population:PopulationBasedTraining",
}

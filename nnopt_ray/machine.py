"""Device, precision, threads and seeds: what was chosen, and why, in words."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nnopt_ray import versions

PACKAGES = (
    "nnopt-ray",
    "ray",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "tokenizers",
    "sentencepiece",
    "optuna",
    "pydantic",
    "safetensors",
)


Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Machine:
    """What a trainer runs on. `decided` says each choice with its reason."""

    device: str  # as torch.device takes it
    precision: Precision
    threads: int
    decided: Mapping[str, str]


def choose(cpus: int, gpus: float, precision: str) -> Machine:
    """Choose device, precision and threads for one worker and set torch's thread count.

    The thread count comes from the page and never from the machine: sums are split over threads, so
    another count gives other last digits (and Ray sets OMP_NUM_THREADS to whatever suits it).
    Raises UserError when a GPU is asked for and torch sees none, and for a torch that nnopt does not work with.
    """
    versions.check("torch")
    import torch

    from nnopt_ray.errors import UserError

    torch.set_num_threads(cpus)
    decided = {"threads": f"{cpus}, from resources.cpus_per_worker"}
    if gpus > 0:
        if not torch.cuda.is_available():
            raise UserError(
                f"resources.gpus_per_worker is {gpus:g}, but torch {torch.__version__} sees no GPU here. "
                "Set it to 0, or install a CUDA build of torch."
            )
        device = "cuda"
        decided["device"] = f"cuda ({torch.cuda.get_device_name()}), as resources.gpus_per_worker asks for one"
    else:
        device = "cpu"
        decided["device"] = "cpu, as resources.gpus_per_worker is 0"
    if precision == "auto":
        chosen: Precision = "float32"
        if device == "cuda" and torch.cuda.is_bf16_supported():
            chosen = "bfloat16"
            decided["precision"] = "bfloat16 autocast, as this GPU computes in it"
        else:
            decided["precision"] = "float32, as this device gains nothing from less"
    else:
        chosen = "bfloat16" if precision == "bfloat16" else "float16" if precision == "float16" else "float32"
        scaled = " with loss scaling" if chosen == "float16" else ""
        decided["precision"] = f"{chosen}{scaled}, from train.precision"
    return Machine(device=device, precision=chosen, threads=cpus, decided=decided)


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from a seed, an epoch and a purpose: the same parts give the same seed anywhere.

    All randomness of training is drawn from generators seeded so, never from one that has been
    running; then a resumed epoch draws what the unbroken run would have drawn.
    """
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_torch(seed: int) -> None:
    """torch.manual_seed, for the devices there are.

    torch's own also queues the seed, with a traceback, for each kind of device that was never used: 2 ms and
    some memory that is never freed, at every call.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def seed_all(seed: int) -> None:
    """For what a network draws in training: dropout draws from torch, one of one's own maybe from NumPy or Python."""
    import random

    import numpy as np

    seed_torch(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def environment() -> dict[str, Any]:
    """Versions and hardware, for environment.json."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "command": sys.argv,
    }


def processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

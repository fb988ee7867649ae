"""A network cut over two workers (`resources.fsdp`) beside two workers with whole weights: time of a step, alternating,
and the memory of a worker, each in processes of its own. gloo, one thread a worker.

python tests/benchmarks/bench_fully_sharded.py            # 5 rounds
python tests/benchmarks/bench_fully_sharded.py --quick    # 1
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from contest import QUICK, machine, median

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_fully_sharded import numbers, texts
from train_example import MACHINE, page, part

from nnopt_ray.train.fully_sharded import FullShard
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

KINDS = {"whole": Shard, "cut": FullShard}
MODEL = part("gpt", width=512, depth=16, heads=8, dropout=0.0)  # 50 million weights, 202 MB
KEYS: dict[str, Any] = {"epochs": 100, "batch_size": 16, "optimizer": part("adamw", lr=1e-4)}


def made(kind: str) -> Trainer:
    return Trainer(page(model=MODEL, **KEYS), texts("language_modelling"), MACHINE, {}, shard=KINDS[kind]())


def memory(word: str) -> float:
    """Resident MB of this process: now (VmRSS), or the most since `forget` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(word)) / 1e3


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def in_process(rank: int, port: int, what: str, file: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    told = timed() if what == "time" else held(what)
    if rank == 0:
        Path(file).write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def timed() -> dict[str, list[float]]:
    """Seconds a step, of each kind."""
    trainers = {kind: made(kind) for kind in KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(2 if QUICK else 6):
        for kind, trainer in trainers.items():
            began = time.perf_counter()
            trainer._train()
            if number:
                taken[kind].append((time.perf_counter() - began) / trainer.steps_per_epoch)
    return taken


def held(kind: str) -> dict[str, float]:
    """Numbers that a worker keeps, and MB beyond what it had before: at most while training, and between epochs."""
    torch.distributed.barrier()
    before = memory("VmRSS")
    trainer = made(kind)
    trainer.run_epoch()
    forget()
    trainer.run_epoch()
    return {"kept": numbers(trainer), "peak": memory("VmHWM") - before, "after": memory("VmRSS") - before}


def main() -> None:
    print(f"a network cut over two workers, gpt of 50 million weights, gloo; {machine()}")
    told: dict[str, Any] = {}
    for what in ("time", *KINDS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            processes.spawn(in_process, (port, what, f"{folder}/told"), nprocs=2)  # type: ignore[no-untyped-call]
            told[what] = json.loads(Path(folder, "told").read_text())
    for kind, seconds in told["time"].items():
        kept = told[kind]
        print(
            f"{kind:6} step {median(seconds):.2f} s   keeps {kept['kept'] / 1e6:.0f} million numbers   "
            f"{kept['after']:.0f} MB between epochs, {kept['peak']:.0f} MB at most"
        )
    print(f"cut / whole: {median(told['time']['cut']) / median(told['time']['whole']):.2f}")


if __name__ == "__main__":
    main()

"""A network cut over two workers (`resources.fsdp`) beside two workers with whole weights: time of a step and
memory of a worker, in processes of their own, alternating. gloo, one thread a worker.

python tests/benchmarks/bench_fully_sharded.py            # 4 rounds
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


def in_process(rank: int, port: int, kind: str, file: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    told = measured(kind)
    if rank == 0:
        Path(file).write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def measured(kind: str) -> dict[str, float]:
    """Of a worker: seconds a step; numbers that it keeps; MB beyond what it had before, between epochs and at most."""
    torch.distributed.barrier()
    before = memory("VmRSS")
    trainer = made(kind)
    trainer.run_epoch()
    forget()
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        trainer._train()
        taken.append((time.perf_counter() - began) / trainer.steps_per_epoch)
    return {
        "step": median(taken),
        "kept": numbers(trainer),
        "between": memory("VmRSS") - before,
        "most": memory("VmHWM") - before,
    }


def main() -> None:
    print(f"a network cut over two workers, gpt of 50 million weights, gloo; {machine()}")
    told: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(1 if QUICK else 4):
        for kind in KINDS:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            with tempfile.TemporaryDirectory() as folder:
                processes.spawn(in_process, (port, kind, f"{folder}/told"), nprocs=2)  # type: ignore[no-untyped-call]
                told[kind].append(json.loads(Path(folder, "told").read_text()))
    middle = {
        kind: {name: median([each[name] for each in rounds]) for name in rounds[0]} for kind, rounds in told.items()
    }
    for kind, found in middle.items():
        print(
            f"{kind:6} step {found['step']:.2f} s   keeps {found['kept'] / 1e6:.0f} million numbers   "
            f"{found['between']:.0f} MB between epochs, {found['most']:.0f} MB at most"
        )
    print(
        "cut / whole: "
        + ", ".join(f"{name} {middle['cut'][name] / middle['whole'][name]:.2f}" for name in middle["cut"])
    )


if __name__ == "__main__":
    main()

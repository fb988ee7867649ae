"""One copy of the data a node: what counts as a network, who copies, and what a killed or refused copy leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import page

from nnopt_ray.data import store
from nnopt_ray.data.prepare import place, prepare
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import RunFolderError
from nnopt_ray.search.node_store import Mapped, Nodes, fetch, file_system, open_on_node, over_network

# Lines as proc(5) describes them; the optional fields (shared:N master:M) are none, one or two.
MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /shared rw,relatime shared:9 - nfs4 head:/export rw,vers=4.2
41 40 254:1 / /shared/scratch rw shared:8 master:2 - xfs /dev/vdb rw
42 27 0:42 / /my\040disk rw - cifs //server/share rw
43 27 0:43 / /home rw - fuse.sshfs me@head: rw
44 27 0:44 / /over rw - xfs /dev/vdc rw
45 44 0:45 / /over rw - lustre mgs@tcp:/fs rw
46 27 8:1 / /usb rw - fuseblk /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "network"),
    [
        ("/var/runs", "ext4", False),
        ("/shared", "nfs4", True),
        ("/shared/runs/a/data", "nfs4", True),
        ("/sharedish/runs", "ext4", False),
        ("/shared/scratch/runs", "xfs", False),
        ("/my disk/runs", "cifs", True),
        ("/home/me/runs", "fuse.sshfs", True),
        ("/over/runs", "lustre", True),
        ("/usb/runs", "fuseblk", False),
    ],
)
def test_the_file_system_is_that_of_the_longest_mount_point_and_of_the_last_on_it(
    place: str, kind: str, network: bool
) -> None:
    assert file_system(Path(place), MOUNTS) == kind
    assert over_network(kind) is network


def test_a_link_is_followed_and_this_machines_own_mounts_are_read(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to("far")
    assert file_system(tmp_path / "near" / "data", network_at(tmp_path / "far")) == "nfs4"
    own = Path("/proc/self/mountinfo")
    if own.is_file():  # Linux
        assert file_system(Path("/proc/self"), own.read_text()) == "proc"


def network_at(folder: Path) -> str:
    escaped = str(folder).replace(" ", "\\040")
    return f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:40 / {escaped} rw - nfs4 head:/export rw\n"


@pytest.fixture
def shared(tmp_path: Path) -> Dataset:
    """The data of a run folder, prepared by a machine whose cache is not this node's."""
    made = prepare(page({"type": "sklearn", "name": "iris"}, steps=["scale"]), tmp_path / "elsewhere")
    return place(made, tmp_path / "runs" / "one" / "data")


def test_on_a_local_disk_the_run_folder_is_mapped(tmp_path: Path, shared: Dataset) -> None:
    dataset, mapped = open_on_node(shared.folder, tmp_path / "cache", MOUNTS)
    assert dataset.folder == shared.folder
    assert mapped.own
    assert not (tmp_path / "cache").exists()
    assert Nodes(pytest.fail).take(mapped) == {}


def test_over_a_network_it_is_copied_once_and_the_copy_is_mapped(tmp_path: Path, shared: Dataset) -> None:
    cache, mounts = tmp_path / "cache", network_at(tmp_path / "runs")
    first, told = open_on_node(shared.folder, cache, mounts)
    second, again = open_on_node(shared.folder, cache, mounts)
    size = sum(file.stat().st_size for file in shared.folder.iterdir())
    assert (told.copied_bytes, again.copied_bytes) == (size, 0)
    assert first.folder == second.folder == cache / shared.key
    for file in shared.folder.iterdir():
        assert (first.folder / file.name).read_bytes() == file.read_bytes()
        assert not (first.folder / file.name).samefile(file)
    mapping = first.train.inputs[0]
    assert isinstance(mapping, np.memmap)
    assert Path(str(mapping.filename)).parent == cache / shared.key


def test_a_cache_on_a_network_too_is_left_alone(tmp_path: Path, shared: Dataset) -> None:
    dataset, mapped = open_on_node(shared.folder, tmp_path / "cache", network_at(tmp_path))
    assert dataset.folder == shared.folder
    assert not (tmp_path / "cache").exists()
    assert "NNOPT_CACHE" in mapped.note


def test_a_run_folder_that_is_not_mounted_here_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="every node must mount it"):
        open_on_node(tmp_path / "runs" / "one" / "data")


def test_a_damaged_copy_is_fetched_anew(tmp_path: Path, shared: Dataset) -> None:
    cache, mounts = tmp_path / "cache", network_at(tmp_path / "runs")
    mapped = open_on_node(shared.folder, cache, mounts)[0]
    file = mapped.folder / "train.table.npy"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-8])
    dataset, told = open_on_node(shared.folder, cache, mounts)
    assert told.copied_bytes
    np.testing.assert_array_equal(dataset.train.inputs[0], shared.train.inputs[0])


def test_other_numbers_under_the_same_key_are_not_taken(tmp_path: Path, shared: Dataset) -> None:
    """Another processor may round a mean otherwise: all workers of a study see the run folder's numbers."""
    cache, mounts = tmp_path / "cache", network_at(tmp_path / "runs")
    shutil.copytree(shared.folder, cache / shared.key)
    described = json.loads((cache / shared.key / store.DATASET).read_text())
    described["target_mean"][0] += 1
    manifest = json.loads((cache / shared.key / store.MANIFEST).read_text())
    (cache / shared.key / store.DATASET).write_text(json.dumps(described))
    manifest["files"][store.DATASET]["bytes"] = (cache / shared.key / store.DATASET).stat().st_size
    manifest["files"][store.DATASET]["blake2b"] = None
    (cache / shared.key / store.MANIFEST).write_text(json.dumps(manifest))
    dataset, mapped = open_on_node(shared.folder, cache, mounts)
    assert dataset.folder == shared.folder
    assert "other results" in mapped.note


def test_a_full_disk_leaves_the_run_folder_and_a_note(
    tmp_path: Path, shared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=100))
    dataset, mapped = open_on_node(shared.folder, tmp_path / "cache", network_at(tmp_path / "runs"))
    assert dataset.folder == shared.folder
    assert (mapped.own, mapped.copied_bytes) == (False, 0)
    assert "No space left" in mapped.note or "full" in mapped.note
    assert not [file for file in (tmp_path / "cache").iterdir() if file.is_dir()]


def test_a_disk_that_fills_up_in_the_middle_is_left_as_it_was(tmp_path: Path, shared: Dataset) -> None:
    done: list[Path] = []

    def fills(source: Path, target: Path) -> None:
        if len(done) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        done.append(Path(shutil.copyfile(source, target)))

    with pytest.raises(OSError, match="No space left"):
        fetch(shared, tmp_path / "cache", fills)
    assert len(done) == 3
    assert not [file for file in (tmp_path / "cache").iterdir() if file.is_dir()]


def test_a_copy_that_is_not_what_the_manifest_says_gets_no_name(tmp_path: Path, shared: Dataset) -> None:
    def loses_the_end(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[: -1 if source.suffix == ".npy" else None])

    with pytest.raises(RunFolderError, match="bytes instead of"):
        fetch(shared, tmp_path / "cache", loses_the_end)
    assert not [file for file in (tmp_path / "cache").iterdir() if file.is_dir()]


COPIER = textwrap.dedent("""
    import shutil, sys, time
    from pathlib import Path
    from nnopt_ray.data.store import open_dataset
    from nnopt_ray.search.node_store import fetch

    run, cache, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

    def slowly(source, target):
        shutil.copyfile(source, target)
        print("copied", source.name, flush=True)
        time.sleep(seconds)

    print("fetched", fetch(open_dataset(run), cache, slowly), flush=True)
""")


def copier(shared: Dataset, cache: Path, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", COPIER, str(shared.folder), str(cache), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_at_the_same_time_one_copies(tmp_path: Path, shared: Dataset) -> None:
    both = [copier(shared, tmp_path / "cache", 0.1) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    files = len(list(shared.folder.iterdir()))
    assert sorted(len(lines) for lines in said) == [1, files + 1]
    assert store.open_dataset(tmp_path / "cache" / shared.key).key == shared.key


def test_a_killed_copier_leaves_no_half_store_and_the_next_clears_up(tmp_path: Path, shared: Dataset) -> None:
    cache = tmp_path / "cache"
    killed = copier(shared, cache, 30.0)
    assert killed.stdout is not None
    assert killed.stdout.readline().startswith("copied")
    killed.kill()
    killed.communicate(timeout=30)
    assert [file.name for file in cache.iterdir() if file.is_dir()] == [f"{store.BUILDING}{shared.key}"]
    assert fetch(shared, cache) > 0
    assert [file.name for file in cache.iterdir() if file.is_dir()] == [shared.key]
    np.testing.assert_array_equal(store.open_dataset(cache / shared.key).train.target, shared.train.target)


def test_what_nodes_did_is_one_sentence_and_one_note() -> None:
    notes: list[str] = []
    nodes = Nodes(notes.append)
    one = Mapped("a", "/cache/k", "nfs4", 3 << 20, own=True)
    nodes.take(one)
    nodes.take(replace(one, copied_bytes=0))
    said = nodes.take(replace(one, node="b"))["data_on_nodes"]
    assert said == "fetched once to each of 2 nodes (3.0 MiB), as the run folder is on nfs4"
    nodes.take(replace(one, node="c", copied_bytes=0))
    for node in "de":
        said = nodes.take(Mapped(node, "/runs/data", "nfs4", 0, own=False, note="full"))["data_on_nodes"]
    assert "in the cache of 1 node already, read over the network all the time by 2 nodes" in said
    assert notes == ["full"]


# Two raylets on this machine stand for two nodes, each with a cache of its own; three real workers, two on the first.
# The run folder's network is feigned in the text of mountinfo that they are handed.
TWO_NODES = textwrap.dedent("""
    import json, logging, os, sys
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster
    from nnopt_ray import reading
    from nnopt_ray.experiment import plain
    from nnopt_ray.search.messages import Order
    from nnopt_ray.search.worker import Worker

    run, page, mounts, caches = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    cluster = Cluster()
    for number, cache in enumerate(caches):
        os.environ["NNOPT_CACHE"] = cache
        cluster.add_node(num_cpus=2 - number, resources={f"node{number}": 2}, include_dashboard=False)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)

    class Watched(Worker):
        def maps(self):
            return os.getpid(), Path("/proc/self/maps").read_text()

    tree = plain(reading.load(page).tree)
    workers = [ray.remote(Watched).options(num_cpus=1, resources={f"node{number}": 1}).remote(sys.path)
               for number in (0, 0, 1)]
    mapped = ray.get([worker.setup.remote(tree, None, str(run), False, mounts) for worker in workers])
    answers = ray.get([worker.work.remote((Order(f"{n:05d}", {}),), ()) for n, worker in enumerate(workers)])
    maps = ray.get([worker.maps.remote() for worker in workers])
    print(json.dumps({
        "mapped": [[each.folder, each.copied_bytes] for each in mapped],
        "epochs": [[len(report.epochs) for report in answer.reports] for answer in answers],
        "failures": [str(report.failure) for answer in answers for report in answer.reports if report.failure],
        "files": [sorted({tuple(line.split()[3:6]) for line in text.splitlines() if line.endswith(".npy")})
                  for _, text in maps],
    }))
    ray.shutdown()
    cluster.shutdown()
""")


@pytest.mark.slow
@pytest.mark.ray
def test_each_of_two_nodes_fetches_once_and_its_workers_map_the_same_files(tmp_path: Path) -> None:
    written = tmp_path / "page.yaml"
    written.write_text(
        "name: nodes\nseed: 1\ndata: {source: {type: sklearn, name: iris}, steps: [scale]}\nmodel: {type: mlp}\n"
        "train: {epochs: 2, batch_size: 32}\n"
    )
    from nnopt_ray import reading

    run = tmp_path / "runs" / "one"
    shared = place(prepare(reading.load(written), tmp_path / "elsewhere"), run / "data")
    caches = [tmp_path / "node 0", tmp_path / "node 1"]
    words = [str(run), str(written), network_at(tmp_path / "runs"), *map(str, caches)]
    done = subprocess.run([sys.executable, "-c", TWO_NODES, *words], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    folders = [str(cache / shared.key) for cache in caches]
    assert [folder for folder, _ in said["mapped"]] == [folders[0], folders[0], folders[1]]
    copied = [size > 0 for _, size in said["mapped"]]
    assert sorted(copied[:2]) == [False, True]
    assert copied[2]
    assert said["failures"] == []
    assert all(epochs and epochs[0] > 0 for epochs in said["epochs"])
    first, second, third = said["files"]  # device, inode and start of path of what is mapped
    assert first
    assert first == second
    assert not {inode for _, inode, _ in first} & {inode for _, inode, _ in third}

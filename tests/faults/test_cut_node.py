"""Nodes that are cut off from the network, and nodes that do not see the folder of the run."""

from __future__ import annotations

import time
from pathlib import Path

import net_example
import pytest
from fault_example import judge_whole, table
from net_example import NetCluster
from ray_example import Program, results, unhurried_page, wait_for, without_sleep

import nnopt_ray as nn

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not net_example.possible(), reason="network namespaces need root and Linux"),
]
SEARCH = {"trials": 8, "reproducible": True}


@pytest.mark.parametrize("cut_s", [3, 60])
def test_a_node_that_is_cut_off_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_s: int) -> None:
    page, out = unhurried_page(tmp_path, 0.15, SEARCH, epochs=30), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    with NetCluster(nodes=2) as nodes:
        program = Program(tmp_path, "run", str(page), "--out", str(out), "--address", nodes.address)
        wait_for(lambda: results(out) >= 40, program)
        assert program.runs(), program.ended()
        nodes.cut(0)
        before, began = results(out), time.monotonic()
        wait_for(lambda: time.monotonic() > began + cut_s or results(out) > before + 8, program)
        went_on_s = time.monotonic() - began
        time.sleep(max(0.0, began + cut_s - time.monotonic()))
        nodes.mend(0)
        code, said, errors = program.ended()
    assert code == 0, said + errors
    print(f"\nepochs came again after {went_on_s:.0f} s\n{said}{errors}")
    (run,) = out.iterdir()
    ended = nn.open_run(run)
    judge_whole(ended)
    assert ended.result["trials"] == {"total": 8, "finished": 8, "stopped": 0, "failed": 0}
    assert ("died" in said + errors) == (cut_s > 10)
    unhurried_page(tmp_path, 0.0, SEARCH, epochs=30)
    undisturbed = nn.run(nn.load(page), tmp_path / "undisturbed")
    assert without_sleep(table(ended)) == without_sleep(table(undisturbed))


def test_a_node_that_does_not_see_the_run_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, out = unhurried_page(tmp_path, 0.0, SEARCH), tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(tmp_path)
    with NetCluster(nodes=2, hidden={1: out}) as nodes:
        code, said, errors = Program(tmp_path, "run", str(page), "--out", str(out), "--address", nodes.address).ended()
    assert code == 2, said + errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("nnopt: ")]
    assert "does not see the run folder" in sentence
    assert "--out" in sentence, "what to do about it"

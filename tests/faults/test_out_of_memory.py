"""Ray ends workers when the machine runs low on memory: that is told in a sentence, and is no fault of nnopt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = """\
data: {source: {type: sklearn, name: wine}, steps: [scale]}
model: {type: mlp, widths: [{int: [4, 8]}]}
search: {method: random, trials: 3}
resources: {in_process: never}
"""


@pytest.mark.ray
def test_no_memory_left_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(PAGE)
    done = subprocess.run(
        [sys.executable, "-m", "nnopt_ray", "run", "page.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        # Ray's memory monitor calls a machine full from this share on, and looks this often.
        env={**os.environ, "RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "100"},
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nnopt: ")
    assert "low on memory" in last
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000

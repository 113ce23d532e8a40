"""What python -m rl.describe prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.router.describe import main
from rl.router.encoder import StateEncoder


@pytest.mark.parametrize(("replicas", "depth"), [(1, 0), (3, 2), (16, 8)])
def test_every_feature_has_its_line(replicas: int, depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--num_replicas", str(replicas), "--max_queue_requests", str(depth)]) == 0
    out = capsys.readouterr().out
    encoder = StateEncoder(replicas, depth)
    assert f"{encoder.flat_dimension} numbers" in out and max(map(len, out.splitlines())) <= 100
    names = [line.split()[1] for line in out.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert [*names] == ["replicas,"] + [f.name for f in (*encoder.spec.replica, *encoder.spec.context)]


def test_a_checkpoint_and_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_text("cluster_config: {num_replicas: 7}\n")
    assert main(["--config", str(tmp_path / "cluster.yaml"), "--checkpoint", "default"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("7 replicas, 4 waiting requests each") and "std" in out
    assert main(["--checkpoint", "default", "--max_queue_requests", "1"]) == 2
    assert "max_queue_requests is 1" in capsys.readouterr().err
    assert main(["--num_replica", "3"]) == 2
    assert "--num_replicas" in capsys.readouterr().err

"""Modules that share their statistics over torch's process groups: one process on the whole batch, to 1e-13."""

import json

import pytest

dist = pytest.importorskip("torch.distributed", reason="torch is not installed")

from torch_jobs import HERE, torch_job  # noqa: E402 - after torch was found

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


@pytest.mark.parametrize("sizes", ["5-4", "4-0-3"])
def test_uneven_and_empty_ranks_are_one_process(sizes: str) -> None:
    done, _ = torch_job(sizes.count("-") + 1, HERE / "module_ranks.py", sizes, BNSPEC_CPU_KERNELS="compiled")
    assert done.returncode == 0, done.stdout + done.stderr
    worst = json.loads(done.stdout)
    assert worst.pop("same bits")
    assert max(worst.values()) < 1e-13, worst


def test_tensors_over_a_mesh_are_the_whole_ones() -> None:
    """DTensor has rules for each operation, so the specification's way is gone, forward and backward."""
    done, _ = torch_job(2, HERE / "mesh_ranks.py")
    assert done.returncode == 0, done.stdout + done.stderr
    worst = json.loads(done.stdout)
    told = worst.pop("refusal")
    assert "gamma a Tensor" in told
    assert "[BN-ERR-3]" in told
    assert len(worst) == 6
    assert max(worst.values()) < 1e-13, worst

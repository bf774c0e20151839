"""Devices by the words of `--device`, on machines of any number of GPUs."""

from pathlib import Path

import pytest
import torch
from genint.manifests import device
from genint.manifests.device import choose_device, count_cores, count_threads
from genint.manifests.errors import UsageError
from genint.train.distributed import rank_device


@pytest.mark.parametrize(
    ("request_", "num_gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_a_request_names_a_device_that_is_there(request_: str, num_gpus: int, chosen: str) -> None:
    assert choose_device(request_, num_gpus) == chosen


@pytest.mark.parametrize(("request_", "num_gpus"), [("cuda", 0), ("cuda:1", 1), ("tpu", 1), ("cuda:", 1), ("CPU", 1)])
def test_other_requests_are_refused(request_: str, num_gpus: int) -> None:
    with pytest.raises(UsageError, match=f"^--device {request_}: "):
        choose_device(request_, num_gpus)


@pytest.mark.parametrize(("there", "num_gpus", "warned"), [(True, 0, True), (False, 0, False), (True, 1, False)])
def test_auto_warns_where_a_gpu_goes_unused(
    there: bool,
    num_gpus: int,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu = tmp_path / "nvidia0"
    if there:
        gpu.touch()
    monkeypatch.setattr(device, "GPU_FILE", gpu)
    choose_device("auto", num_gpus)
    assert capsys.readouterr().err.startswith("warning: this machine has a GPU that PyTorch does not see") is warned


@pytest.mark.parametrize(("num_gpus", "local_rank", "chosen"), [(8, 3, "cuda:3"), (1, 3, "cuda:0"), (1, 0, "cuda:0")])
def test_a_rank_takes_its_own_gpu_or_the_only_one_that_it_is_shown(
    num_gpus: int, local_rank: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert rank_device("cuda", local_rank) == torch.device(chosen)


@pytest.mark.parametrize(
    ("share", "cores"), [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("?", 6)]
)
def test_cores_are_those_of_the_process_and_of_its_container(
    share: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{share}\n")
    monkeypatch.setattr(device, "SHARE_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(6)))
    assert count_cores() == cores


def test_threads_and_loaders_share_the_cores_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "count_cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert count_threads(workers=2) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [count_threads(0), count_threads(4), count_threads(2, processes=4), count_threads(20)] == [16, 12, 2, 1]

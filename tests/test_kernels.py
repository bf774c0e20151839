"""Kernels that decide pixels are the same whatever the process was told before."""

import json
from collections.abc import Callable, Iterator
from operator import attrgetter

import pytest
import torch
from genint.manifests.kernels import SETTINGS
from genint.pipeline.networks.kernels import repeatable_kernels
from genint.pipeline.shards.environment import describe_environment


def read() -> list[object]:
    return [attrgetter(f"{owner}.{name}")(torch.backends) for owner, name, _ in SETTINGS]


@pytest.fixture(autouse=True)
def everything_as_before() -> Iterator[None]:
    former, precision = read(), torch.backends.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = precision
    for (owner, name, _), value in zip(SETTINGS, former, strict=True):
        setattr(attrgetter(owner)(torch.backends), name, value)


def nothing() -> None:
    """As torch starts."""


def tune_and_round() -> None:
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")


def round_everything() -> None:
    torch.backends.fp32_precision = "tf32"


@pytest.mark.parametrize("setting", [nothing, tune_and_round, round_everything])
def test_precision_is_full_inside_and_as_before_outside(setting: Callable[[], None]) -> None:
    setting()
    before = read()
    with repeatable_kernels():
        assert read() == [value for _, _, value in SETTINGS]
        with repeatable_kernels():
            assert read() == [value for _, _, value in SETTINGS]
        assert read() == [value for _, _, value in SETTINGS]
    assert read() == before


def test_settings_come_back_after_an_error() -> None:
    before = read()
    with pytest.raises(ZeroDivisionError), repeatable_kernels():
        raise ZeroDivisionError
    assert read() == before


def test_environment_of_a_cpu_says_nothing_of_cuda_and_keeps_its_id() -> None:
    found = describe_environment("cpu")
    assert json.loads(found.to_json()).keys() == {
        "device", "genint", "libjpeg_turbo", "numpy", "pillow", "python", "torch"
    }  # fmt: skip
    of_gpus = [found.model_copy(update={"cuda": "13.0", "cudnn": version}) for version in ("91301", "91400")]
    assert len({environment.id for environment in (found, *of_gpus)}) == 3

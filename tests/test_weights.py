"""Weights files: damage is found, nothing in them runs, and what they say is looked at before memory is taken."""

import argparse
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.errors import FormatError
from genint.pipeline.biggan.generator import load_generator
from genint.pipeline.networks.weights import load_weights
from genint.pipeline.style.vgg import make_vgg
from torch import Tensor


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0x40
    path.write_bytes(content)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.arange(40_000.0), "b": torch.ones(3)}, path)
    return path


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_one_flipped_bit_of_a_weight_is_found(weights: Path, at: float):
    load_weights(weights)
    flip(weights, at)
    with pytest.raises(FormatError, match=r"the checksum of its member .* does not fit: the file is damaged"):
        load_weights(weights)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.zeros(1).expand(10**11), "larger than what is stored of it"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(2, dtype=torch.complex64), "a dense tensor of real numbers"),
        (torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6), check_invariants=True), "a dense tensor"),
        ("text", "a str, expected a name with a tensor"),
        (argparse.Namespace(lr=1), "argparse.Namespace, which would run code; where you trust the file, save its"),
    ],
)
def test_an_entry_that_is_no_plain_tensor_is_refused_by_name(entry: Any, message: str, tmp_path: Path):
    torch.save({"layer.weight": entry}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=message):
        load_weights(tmp_path / "w.pt")


def test_an_encoder_whose_weight_has_no_dimension_is_refused():
    state: dict[str, Tensor] = {}
    for number in (0, 2, 5, 7, 10):
        state |= {f"features.{number}.weight": torch.tensor(1.0), f"features.{number}.bias": torch.zeros(1)}
    with pytest.raises(FormatError, match=r"features\.0: weight and bias of shapes"):
        make_vgg(state, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "config.json: not a JSON file"),
        ({"channel_width": 999}, "weights do not fit the configuration"),
        ({"n_stats": 10**30}, "not an integer from 1 to 100,000"),
    ],
)
def test_a_generators_configuration_takes_no_memory_before_it_fits(text: Any, message: str, tmp_path: Path):
    shipped = Path(str(files("genint.pipeline") / "data" / "mini-generator"))
    shutil.copytree(shipped, tmp_path / "g")
    path = tmp_path / "g" / "config.json"
    path.write_text(text if isinstance(text, str) else json.dumps({**json.loads(path.read_text()), **text}))
    with pytest.raises(FormatError, match=message):
        load_generator(tmp_path / "g")

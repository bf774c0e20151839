"""Bytes of every kind of stream stay what they were. As a script, writes today's digests: `test_bytes.py > bytes.json`.

They hold for one environment (a processor's model and versions of libraries); on another one, the test is left out.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from genint.manifests.shard import sha256_of_file
from genint.pipeline.biggan.generator import make_random_generator
from genint.pipeline.shards.environment import describe_environment
from pytorch_pretrained_biggan import BigGANConfig

DIGESTS = Path(__file__).with_name("bytes.json")
# The shipped recipe, a few samples a stream.
MINI = {
    "natural": ["num_samples=60"],
    "observational": ["latents_per_class=6"],
    "interventional": ["latents_per_class=2"],
    "transfer": ["num_samples=12", "batch_size=6"],
    "counterfactual": ["samples_per_class=4", "bank=4"],
    "recomposed": ["num_samples=20"],
}
# A generator of 256 px with few channels.
LAYERS = [(False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (True, 8, 8), (True, 8, 4), (True, 4, 2)]
LARGE = BigGANConfig(
    output_dim=256, z_dim=16, class_embed_dim=16, channel_width=8, num_classes=4,
    layers=[*LAYERS, (True, 2, 1)], attention_layer_position=4, eps=1e-4, n_stats=51,
)  # fmt: skip
LARGE_RECIPE = """
name = "large"
seed = 11
[generator]
name = "mini"
batch_size = 3
[[streams]]
name = "interventional"
source = "interventional"
latents_per_class = 2
interventions_per_latent = 2
num_directions = 4
step_ranges = 4.0
samples_per_shard = 10
"""


def environment() -> dict[str, str]:
    """What decides bytes; Python does not."""
    found = json.loads(describe_environment("cpu").to_json())
    return {name: found[name] for name in sorted(found.keys() - {"genint", "python"})}


def build(folder: Path) -> dict[str, str]:
    """sha256 of every shard, by recipe and stream."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several round otherwise
    torch.save(make_random_generator(LARGE, seed=0).state_dict(), folder / "pytorch_model.bin")
    torch.set_num_threads(threads)
    (folder / "config.json").write_text(LARGE.to_json_string())
    (folder / "large.toml").write_text(LARGE_RECIPE)
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]
    overrides = [f"--set=streams.{name}.{key}" for name, keys in MINI.items() for key in keys]
    streams = [f"--stream={name}" for name in MINI]
    for words in (["mini", *overrides, *streams], [folder / "large.toml", "--weights", folder]):
        out = folder / Path(words[0]).stem
        subprocess.run([*command, *words, "--out", out, "--workers", "1", "--device", "cpu"], check=True, stdout=2)
    return {str(tar.relative_to(folder)): sha256_of_file(tar) for tar in sorted(folder.rglob("*.tar"))}


def test_shards_are_those_that_were_made_before(tmp_path: Path) -> None:
    before = json.loads(DIGESTS.read_bytes())
    if environment() != before["environment"]:
        pytest.skip("digests are of another processor or of other versions")
    assert build(tmp_path) == before["sha256"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps({"environment": environment(), "sha256": build(Path(scratch))}, indent=1))

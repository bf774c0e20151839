"""Generators load whole or not at all, and say why not; a random one stands in for weights that are not there."""

import hashlib
import json
import multiprocessing
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.pipeline.biggan.generator import PUBLISHED_CONFIGS, load_generator, make_random_generator
from pytorch_pretrained_biggan import BigGAN, BigGANConfig, convert_tf_to_pytorch
from pytorch_pretrained_biggan.file_utils import url_to_filename
from pytorch_pretrained_biggan.model import PRETRAINED_CONFIG_ARCHIVE_MAP, PRETRAINED_MODEL_ARCHIVE_MAP

TINY = BigGANConfig(
    output_dim=16,
    z_dim=8,
    class_embed_dim=8,
    channel_width=8,
    num_classes=3,
    layers=[[True, 16, 8], [False, 8, 4], [True, 4, 2], [False, 2, 1]],
    attention_layer_position=2,
    eps=1e-4,
    n_stats=51,
)


@pytest.fixture(scope="module")
def model() -> BigGAN:
    return make_random_generator(TINY, seed=1)


@pytest.fixture
def folder(model: BigGAN, tmp_path: Path) -> Path:
    """A saved generator, as the package saves one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(TINY.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request goes to a port where nobody listens."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def one_line_error(error_type: type[GenintError], load: Callable[[], object]) -> str:
    with pytest.raises(error_type) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_published_configurations_are_the_package_s(resolution: int) -> None:
    published = PUBLISHED_CONFIGS[f"biggan-deep-{resolution}"]
    assert published.to_dict() == getattr(convert_tf_to_pytorch, f"BigGAN{resolution}").to_dict()
    assert published.output_dim == resolution


def test_a_saved_generator_loads_ready_for_inference(folder: Path, model: BigGAN) -> None:
    loaded = load_generator(folder)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config.to_dict() == TINY.to_dict()
    assert loaded.model.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_digests_are_those_of_the_files(folder: Path) -> None:
    loaded = load_generator(str(folder))
    assert loaded.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert loaded.weights_sha256 == hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()


def test_weights_without_module_versions_load(folder: Path, model: BigGAN) -> None:
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    loaded = load_generator(folder).model
    assert torch.equal(loaded.generator.gen_z.weight_v, model.generator.gen_z.weight_v)


def test_a_near_miss_of_a_published_name_is_named() -> None:
    message = one_line_error(UsageError, lambda: load_generator("biggan-deep-265"))
    assert "'biggan-deep-265'" in message
    assert "did you mean 'biggan-deep-256'?" in message


def test_a_folder_without_weights_says_which_file_is_missing(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()
    message = one_line_error(UsageError, lambda: load_generator(folder))
    assert message == f"generator folder {folder}: no pytorch_model.bin"


def test_without_network_the_message_names_both_files(no_network: None, tmp_path: Path) -> None:
    message = one_line_error(GenintError, lambda: load_generator("biggan-deep-128", cache_dir=tmp_path))
    for part in ("'biggan-deep-128'", "config.json", "pytorch_model.bin", "--weights DIR"):
        assert part in message


def test_a_cached_download_needs_no_network(no_network: None, folder: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    cache_dir.mkdir()
    name = "biggan-deep-128"
    for url, file_name in (
        (PRETRAINED_CONFIG_ARCHIVE_MAP[name], "config.json"),
        (PRETRAINED_MODEL_ARCHIVE_MAP[name], "pytorch_model.bin"),
    ):
        cached = cache_dir / url_to_filename(url, etag='"7"')
        shutil.copy(folder / file_name, cached)
        Path(f"{cached}.json").write_text(json.dumps({"url": url, "etag": '"7"'}))
    assert load_generator(name, cache_dir).weights_sha256 == load_generator(folder).weights_sha256


def test_processes_that_start_together_fetch_published_weights_once_and_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    class Slow(SimpleHTTPRequestHandler):
        """Half of a file, and after a moment the rest."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def copyfile(self, source: Any, outputfile: Any) -> None:
            fetched.append(self.path)
            content = source.read()
            outputfile.write(content[: len(content) // 2])
            time.sleep(0.1)
            outputfile.write(content[len(content) // 2 :])

        def log_message(self, format: str, *arguments: Any) -> None:
            """The test's output is its own."""

    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setitem(PRETRAINED_CONFIG_ARCHIVE_MAP, "biggan-deep-128", f"{base}/config.json")
    monkeypatch.setitem(PRETRAINED_MODEL_ARCHIVE_MAP, "biggan-deep-128", f"{base}/pytorch_model.bin")

    def load(digests: Any) -> None:
        digests.put(load_generator("biggan-deep-128", tmp_path / "cache").weights_sha256)

    context = multiprocessing.get_context("fork")
    digests = context.Queue()
    processes = [context.Process(target=load, args=(digests,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    server.shutdown()
    server.server_close()
    assert {digests.get() for _ in processes} == {load_generator(folder).weights_sha256}
    assert sorted(fetched) == ["/config.json", "/pytorch_model.bin"]
    assert len(list((tmp_path / "cache").iterdir())) == 5  # two files, what each is, and the lock


def test_a_path_is_a_folder_even_under_a_published_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(tmp_path / "biggan-deep-128")
    monkeypatch.chdir(tmp_path)
    assert load_generator(Path("biggan-deep-128")).model.config.output_dim == TINY.output_dim


@pytest.mark.parametrize("kept_bytes", [0, 1, 1000, 100_000])
def test_cut_off_weights_are_refused(folder: Path, kept_bytes: int) -> None:
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    assert str(weights) in one_line_error(FormatError, lambda: load_generator(folder))


class CallsPrint:
    """What a malicious weights file would hold."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_weights_that_would_run_code_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], save: Callable[[object, Path], object]
) -> None:
    save({"weight": CallsPrint()}, folder / "pytorch_model.bin")
    assert "refused" in one_line_error(FormatError, lambda: load_generator(folder))
    assert "executed" not in capsys.readouterr().out


def test_weights_that_do_not_fit_say_where(folder: Path, model: BigGAN) -> None:
    weights = dict(model.state_dict())
    del weights["generator.bn.bias"]
    weights["discriminator.bias"] = torch.zeros(3)
    weights["embeddings.weight"] = torch.zeros(8, 4)
    torch.save(weights, folder / "pytorch_model.bin")
    message = one_line_error(FormatError, lambda: load_generator(folder))
    assert "1 missing (generator.bn.bias)" in message
    assert "1 unexpected (discriminator.bias)" in message
    assert "1 of another shape (embeddings.weight [8, 4] instead of [8, 3])" in message


def test_weights_of_another_kind_are_refused(folder: Path) -> None:
    torch.save(torch.zeros(3), folder / "pytorch_model.bin")
    assert "holds a Tensor" in one_line_error(FormatError, lambda: load_generator(folder))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"z_dim": "8"}, "z_dim is '8', not an integer from 1 to 100,000"),
        ({"eps": 0}, "eps is 0"),
        ({"n_stats": 1}, "n_stats is 1"),
        ({"class_embed_dim": 4}, "class_embed_dim is 4, z_dim 8"),
        ({"layers": {}}, "layers is {}"),
        ({"layers": [[1, 16, 8]]}, "layer 0 is [1, 16, 8]"),
        ({"layers": [[True, 8, 8]]}, "layer 0 takes 8 x channel_width channels, but is given 16"),
        ({"layers": [[True, 16, 4]]}, "layer 0 turns 16 x channel_width channels into 4"),
        ({"layers": [[True, 16, 8]]}, "the last layer gives 8 x"),
        ({"output_dim": 32}, "output_dim is 32, but the layers give 16"),
        ({"attention_layer_position": 4}, "attention_layer_position is 4"),
        ({"channel_width": 4}, "channel_width is 4"),
    ],
)
def test_a_configuration_that_cannot_be_built_says_why(folder: Path, changes: dict[str, object], expected: str) -> None:
    (folder / "config.json").write_text(json.dumps(TINY.to_dict() | changes))
    message = one_line_error(FormatError, lambda: load_generator(folder))
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"z_dim": 8', "not a JSON file"), (b"\xff\xfe\xfa", "not a JSON file"), (b"[]", "no "), (b"{}", "no ")],
)
def test_a_broken_configuration_is_named(folder: Path, content: bytes, expected: str) -> None:
    (folder / "config.json").write_bytes(content)
    message = one_line_error(FormatError, lambda: load_generator(folder))
    assert str(folder / "config.json") in message
    assert expected in message


def test_a_random_generator_depends_on_its_seed_alone(model: BigGAN) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = make_random_generator(TINY, seed=1)
    other = make_random_generator(TINY, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not torch.equal(other.embeddings.weight, model.embeddings.weight)


def test_a_random_generator_answers_to_latent_class_truncation_and_attention(model: BigGAN) -> None:
    latents = torch.randn(2, TINY.z_dim, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    class_vectors = torch.eye(TINY.num_classes)
    image = model(latents[:1], class_vectors[:1], 1.0)
    attention = model.generator.layers[TINY.attention_layer_position]
    others = {
        "latent": model(latents[1:], class_vectors[:1], 1.0),
        "class": model(latents[:1], class_vectors[1:2], 1.0),
        "truncation": model(latents[:1], class_vectors[:1], 0.5),
    }
    attention.gamma.data.zero_()
    others["attention"] = model(latents[:1], class_vectors[:1], 1.0)
    attention.gamma.data.fill_(0.5)
    assert 0.2 < image.std() < 0.95
    for name, other in others.items():
        assert (image - other).abs().mean() > 0.02, name

"""Grad-CAM against a hand computation, its share on the object, and sheets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.analyses.attention_sheet import (
    Look,
    SheetRow,
    column_scales,
    draw_sheet,
    draw_tile,
    overlay,
    save_sheet,
    view_of,
)
from genint.evaluate.analyses.grad_cam import (
    choose_disagreements,
    compare_attention,
    find_layer,
    grad_cam,
    make_maps,
    make_rows,
    measure_attention,
)
from genint.evaluate.analyses.stream_images import StreamImages, load_stream, open_stream
from genint.evaluate.metrics.mass_share import mass_share
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import UsageError
from genint.manifests.world import CLASSES
from genint.train.checkpoint import Classifier, Preprocessing, make_model
from genint.train.vision import models
from PIL import Image
from torch import Tensor, nn

RED = (255, 0, 0)


class TinyNet(nn.Module):
    """Two channels, each the sum of the input's times a number; the mean of each, mixed into two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1).clone()
        self.fc = nn.Linear(2, 2, bias=False)
        self.fc.weight.data = torch.tensor([[1.0, 0.5], [0.0, 3.0]])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(images).mean((2, 3)))
        return logits


def resnet(seed: int, crop: int = 32) -> Classifier:
    torch.manual_seed(seed)
    model = make_model("resnet18", len(CLASSES)).eval()
    return Classifier(f"random-{seed}", model, "resnet18", CLASSES, Preprocessing(None, crop), "0" * 64)


@pytest.fixture(scope="module")
def images(reference: Path) -> StreamImages:
    return load_stream(open_stream(load_dataset(str(reference)), "natural"), Preprocessing(None, 32))


def test_maps_equal_the_hand_computation() -> None:
    net = TinyNet()
    x = torch.arange(12.0).view(1, 3, 2, 2)
    grey = x.sum(1, keepdim=True)  # [[12, 15], [18, 21]]
    # d logit_c / d channel_k is fc[c, k] over 4 pixels, everywhere: the weight of channel k.
    for target, factor in ((0, (1.0 * 1.0 + 0.5 * -2.0) / 4), (1, 3.0 * -2.0 / 4)):
        found = grad_cam(net, net.conv, x, torch.tensor([target]))
        assert torch.allclose(found, factor * grey), target
    # Not rectified: class 1 is spoken against everywhere.
    assert (grad_cam(net, net.conv, x, torch.tensor([1])) < 0).all()


def test_maps_are_of_the_own_top_class_also_where_weights_are_frozen() -> None:
    net = TinyNet().requires_grad_(False)
    classifier = Classifier("tiny", net.eval(), "tiny", ("a", "b"), Preprocessing(None, 2, (0, 0, 0), (1, 1, 1)), "0")
    image = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    maps = make_maps(classifier, image, "conv")
    # Channels 3 and -6: logits 0 and -18.
    assert maps.top1.tolist() == [0] and maps.cells == (2, 2)
    assert maps.maps == pytest.approx(np.zeros((1, 2, 2)))


def test_maps_grow_bilinearly_to_the_size_of_the_image(images: StreamImages) -> None:
    maps = make_maps(resnet(0), images.images[:3])
    assert (maps.layer, maps.cells, maps.maps.shape) == ("layer2.1.conv2", (4, 4), (3, 32, 32))
    with pytest.raises(UsageError, match=r"--layer conv9: .* no layer of that name .*; there are .*conv1"):
        make_maps(resnet(0), images.images[:3], "conv9")


def test_the_layer_is_the_released_one_at_full_size_and_earlier_where_that_has_too_few_cells() -> None:
    full = resnet(0, crop=224)
    assert find_layer(full) == "layer4.1.conv2"
    assert dict(full.model.named_modules())["layer4.1.conv2"] is list(full.model.children())[-3][1].conv2  # type: ignore[index]
    assert find_layer(resnet(0, crop=32)) == "layer2.1.conv2"
    with pytest.raises(UsageError, match="no layer has 4 x 4 cells for images of 2 px"):
        find_layer(Classifier("tiny", TinyNet(), "tiny", ("a", "b"), Preprocessing(None, 2), "0"))


def small(model: nn.Module, side: int) -> Classifier:
    return Classifier("small", model.eval(), type(model).__name__, ("a", "b"), Preprocessing(None, side), "0")


@pytest.mark.parametrize(
    ("arch", "layer"), [("squeezenet1_1", "features.7"), ("mobilenet_v3_small", "features.9.block.0")]
)
def test_other_networks_are_looked_at_in_their_last_map(arch: str, layer: str) -> None:
    classifier = small(make_model(arch, 2), 64)
    assert find_layer(classifier) == layer
    maps = make_maps(classifier, torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert maps.layer == layer and maps.maps.any(axis=(1, 2)).all()


def test_a_transformer_is_refused_with_a_remedy_that_works() -> None:
    vit = small(models.VisionTransformer(32, 8, 1, 2, 16, 16, num_classes=2), 32)
    nn.init.normal_(vit.model.heads.head.weight)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"a transformer, .* name a layer with --layer, such as conv_proj"):
        find_layer(vit)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert make_maps(vit, image, "conv_proj").cells == (4, 4)
    with pytest.raises(UsageError, match=r"--layer encoder: .* gives 17 x 16 numbers there; expected channels"):
        make_maps(vit, image, "encoder")


def test_a_swin_transformer_ends_in_a_map_unless_it_has_too_few_cells() -> None:
    def swin(side: int) -> Classifier:
        return small(models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=2), side)

    assert find_layer(swin(16)) == "permute"
    with pytest.raises(UsageError, match=r"a transformer"):
        find_layer(swin(8))


def test_mass_is_counted_where_positive_and_unknown_where_nothing_is() -> None:
    maps = np.array([[[3.0, -5.0], [1.0, 0.0]], [[-1.0, -1.0], [0.0, -2.0]]], np.float32)
    masks = np.array([[[True, True], [False, False]]] * 2)
    shares = mass_share(maps, masks)
    assert shares[0] == 0.75 and np.isnan(shares[1])


def test_attention_comes_with_the_area_that_chance_would_have(images: StreamImages) -> None:
    attention = measure_attention(resnet(0), images)
    assert attention.images == 60 and attention.layer == "layer2.1.conv2"
    assert attention.interval[0] < attention.mass_share < attention.interval[1]
    assert 0.1 < attention.object_area < 0.6
    with pytest.raises(UsageError, match="no object masks"):
        measure_attention(resnet(0), StreamImages("bare", CLASSES, images.images, images.class_labels, (), None))


def test_the_overlay_is_the_released_one() -> None:
    grey = np.full((1, 3, 3), 100, np.uint8)
    drawn = overlay(grey, np.array([[-1.0, 0.5, 7.0]], np.float32))
    # Jet from (0, 0, 0.5) to (0.5, 0, 0), 40 % of it over 60 % of the picture; beyond 0 and 0.5 nothing changes.
    assert drawn.tolist() == [[[60, 60, 111], [111, 60, 60], [111, 60, 60]]]


def test_each_classifier_may_have_a_scale_of_its_own() -> None:
    picture = Image.new("RGB", (4, 4), "black")
    rows = [
        SheetRow(picture, "a", tuple(Look("a", np.full((4, 4), v, np.float32), (0, 0, 4)) for v in values))
        for values in ((0.02, -1.0), (0.02, -2.0))
    ]
    assert column_scales(rows) == pytest.approx([0.02, 0.5])
    drawn = np.asarray(draw_sheet(rows, ["x", "y"], side=4, scales=column_scales(rows)))
    # The top of jet, 40 % of (128, 0, 0), and its bottom, 40 % of (0, 0, 128).
    assert {(51, 0, 0), (0, 0, 51)} <= {tuple(pixel) for pixel in drawn.reshape(-1, 3).tolist()}


def test_images_are_shown_where_classifiers_disagree_and_the_second_is_right() -> None:
    first, second, labels = np.array([0, 1, 0, 2, 2]), np.array([1, 1, 2, 0, 1]), np.array([1, 1, 0, 0, 1])
    assert choose_disagreements(first, second, labels, 5).tolist() == [0, 3, 4]
    assert choose_disagreements(first, second, labels, 2).tolist() == [0, 3]
    assert choose_disagreements(first, second, labels, 5, only_correct=False).tolist() == [0, 2, 3, 4]


def test_the_view_is_what_resizing_and_cropping_leave() -> None:
    # Inside a border of 2: 200 x 100, resized to 512 x 256, of which the central 224 x 224 are 87.5 pixels.
    assert view_of((204, 104), Preprocessing(256, 224), border=2) == (2 + 56.25, 2 + 6.25, 87.5)
    assert view_of((32, 32), Preprocessing(None, 32)) == (0, 0, 32)


def test_every_copy_of_a_bordered_picture_keeps_its_border() -> None:
    picture = Image.new("RGB", (804, 604), RED)
    picture.paste("navy", (2, 2, 802, 602))
    look = Look("broom", np.ones((224, 224), np.float32), view_of(picture.size, Preprocessing(), 2))
    for values in (None, look):
        tile = np.asarray(draw_tile(picture, values, 160, border=2))
        assert tile.shape == (2 + 117 + 2, 160, 3)
        for edge in (tile[:2], tile[-2:], tile[:, :2], tile[:, -2:]):
            assert (edge == RED).all()
        assert (tile[2:-2, 2:-2] != RED).any(-1).all()
    sheet = np.asarray(draw_sheet([SheetRow(picture, "broom", (look, look))], ["a", "b"], 160, border=2))
    # Three copies, each with two red lines of its full width above and below.
    assert (sheet == RED).all(-1).sum() >= 3 * (4 * 160)


def test_rows_are_made_of_pictures_of_any_size() -> None:
    pictures = [Image.new("RGB", size, "navy") for size in ((60, 40), (20, 50))]
    rows = make_rows([resnet(0), resnet(1)], pictures, ["bag", "coat"], border=2)
    assert [len(row.looks) for row in rows] == [2, 2]
    assert draw_sheet(rows, ["a", "b"], side=64, border=2).width == 3 * 70 + 6


def test_a_sheet_of_two_classifiers(images: StreamImages, tmp_path: Path) -> None:
    rows = compare_attention(resnet(0), resnet(1), images, count=2, only_correct=False)
    assert len(rows) == 2 and all(len({look.prediction for look in row.looks}) == 2 for row in rows)
    save_sheet(draw_sheet(rows, ["random-0", "random-1"], side=64), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 70 + 6, 2 * (64 + 18) + 24)
    assert compare_attention(resnet(0), resnet(0), images) == []
    with pytest.raises(UsageError, match="agree on all"):
        draw_sheet([], ["a", "b"])

"""Boxes are read from VOC and COCO folders, mAP is COCO's, and a small detector learns to find squares."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgectl.errors import UserError
from edgectl.recipe import ModelSpec
from edgectl.tasks import task_of, yolo
from edgectl.tasks.boxes import read_boxes
from edgectl.tasks.detect2d import Detect2d
from edgectl.tasks.precision import Boxes, average_precision, mean_average_precision

COLOURS = {"blue": (30, 40, 220), "red": (220, 40, 30)}
HEIGHT, WIDTH = 48, 64


def quiet(message, fraction):
    pass


def scene(seed):
    """An image with one or two squares, and their (class, left, top, right, bottom)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    boxes = []
    for half in range(int(rng.integers(1, 3))):
        side = int(rng.integers(12, 24))
        left, top = 32 * half + int(rng.integers(0, 32 - side)), int(rng.integers(0, HEIGHT - side))
        name = sorted(COLOURS)[int(rng.integers(2))]
        image[top : top + side, left : left + side] = COLOURS[name]
        boxes.append((name, left, top, left + side, top + side))
    return image, boxes


def xml(boxes, width=WIDTH, height=HEIGHT):
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in boxes
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def write_voc(root, train=24, test=8):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, seeds in (("train", range(train)), ("test", range(100, 100 + test))):
        for seed in seeds:
            image, boxes = scene(seed)
            Image.fromarray(image).save(root / "JPEGImages" / f"{seed}.png")
            (root / "Annotations" / f"{seed}.xml").write_text(xml(boxes))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{seed}\n" for seed in seeds))
    return root


def write_coco(root, train=24, test=8):
    (root / "annotations").mkdir(parents=True)
    for split, seeds in (("train", range(train)), ("val", range(100, 100 + test))):
        (root / f"{split}2017").mkdir()
        coco = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}]}
        for seed in seeds:
            image, boxes = scene(seed)
            Image.fromarray(image).save(root / f"{split}2017" / f"{seed}.png")
            coco["images"].append({"id": seed, "file_name": f"{seed}.png", "width": WIDTH, "height": HEIGHT})
            for name, left, top, right, bottom in boxes:
                item = {
                    "image_id": seed,
                    "category_id": 7 if name == "red" else 3,
                    "bbox": [left, top, right - left, bottom - top],
                }
                coco["annotations"].append(item)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


class Small(nn.Module):
    """Maps of stride 8 and 16."""

    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(0)
        layers = [
            layer
            for i, o in ((3, 16), (16, 24), (24, 32))
            for layer in (nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
        ]
        self.body = nn.Sequential(*layers)
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.large, self.small = nn.Conv2d(32, 5 + classes, 3, 1, 1), nn.Conv2d(32, 5 + classes, 3, 1, 1)

    def forward(self, x):
        x = self.body(x)
        return self.large(x), self.small(self.deep(x))


def test_a_small_detector_learns_to_find_squares(voc):
    task = task_of(ModelSpec(file="model.py", factory="model", input=[1, 3, HEIGHT, WIDTH], task="detect2d"))
    examples = task.examples(voc, quiet)
    assert len(examples) == 24
    model, generator = Small(), np.random.default_rng(0)
    before = task.score(model.eval(), voc, progress=quiet).value
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    losses = []
    for _ in range(150):
        inputs, target = examples.batch(generator.integers(24, size=8).tolist(), generator)
        loss = task.loss(model(inputs), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    score = task.score(model.eval(), voc, progress=quiet)
    assert score.value > max(50, before + 40)
    assert score.interval is not None
    assert score.interval[0] <= score.value <= score.interval[1]
    assert set(score.details) == {"mAP@[.5:.95]", "AP@0.5 of blue", "AP@0.5 of red"}
    for fixed in ((1, 3, HEIGHT, WIDTH), (5, 3, HEIGHT, WIDTH)):
        again = task.score(model, voc, fixed=fixed, progress=quiet)
        assert again.value == pytest.approx(score.value, abs=0.01)
        assert again.details == pytest.approx(dict(score.details), abs=0.01)


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_boxes_are_read_as_they_were_written(layout, request):
    classes, pictures = read_boxes(request.getfixturevalue(layout), "test", quiet)
    assert classes == ("blue", "red")
    by_name = {picture.file.stem: picture for picture in pictures}
    for seed in range(100, 108):
        _, boxes = scene(seed)
        picture = by_name[str(seed)]
        assert picture.size == (HEIGHT, WIDTH)
        assert [classes[k] for k in picture.classes] == [name for name, *_ in boxes]
        assert picture.boxes.tolist() == [list(corners) for _, *corners in boxes]


def test_augmented_boxes_stay_on_their_squares_and_come_from_the_generator_alone(voc):
    examples = Detect2d([1, 3, 96, 128]).examples(voc, quiet)
    inputs, target = examples.batch(range(24), np.random.default_rng(3))
    again = examples.batch(range(24), np.random.default_rng(3))
    assert torch.equal(inputs, again[0])
    assert torch.equal(target, again[1])
    assert not torch.equal(inputs, examples.batch(range(24), np.random.default_rng(4))[0])
    seen = 0
    for image, rows in zip(inputs, target, strict=True):
        for k, left, top, right, bottom in rows[rows[:, 0] >= 0].tolist():
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 96
            inner = image[:, int(top) + 2 : int(np.ceil(bottom)) - 2, int(left) + 2 : int(np.ceil(right)) - 2]
            if inner.numel():
                expected = torch.tensor(COLOURS[sorted(COLOURS)[int(k)]]) / 255
                assert torch.allclose(inner.mean((1, 2)), expected, atol=0.12)
                seen += 1
    assert seen > 24


def perfect(voc, size):
    """A predictor that knows the truth, and answers with it at the nearest place of a map of stride 4."""
    classes, pictures = read_boxes(voc, "test", quiet)
    left = list(pictures)

    def predict(inputs):
        maps = torch.full((len(inputs), 5 + len(classes), size[0] // 4, size[1] // 4), -20.0)
        for values in maps:
            if not left:
                break
            picture = left.pop(0)
            ratio = min(size[0] / picture.size[0], size[1] / picture.size[1])
            for box, k in zip(picture.boxes * ratio, picture.classes, strict=True):
                x, y = int((box[0] + box[2]) / 8), int((box[1] + box[3]) / 8)
                centre = np.array([x, y]) * 4 + 2
                distances = torch.from_numpy(np.concatenate([centre - box[:2], box[2:] - centre]) / 4)
                values[:4, y, x] = torch.log(torch.expm1(distances))
                values[4, y, x] = values[5 + k, y, x] = 20
        return [maps]

    return predict


@pytest.mark.parametrize("size", [(48, 64), (96, 96), (40, 64)])
def test_perfect_detections_score_100_and_none_0(voc, size):
    task = Detect2d([1, 3, *size])
    score = task.score(perfect(voc, size), voc, progress=quiet)
    assert score.value == pytest.approx(100)
    assert score.details["mAP@[.5:.95]"] == pytest.approx(100)
    assert score.interval == pytest.approx((100, 100))
    nothing = task.score(lambda inputs: torch.full((len(inputs), 7, 3, 4), -20.0), voc, progress=quiet)
    assert (nothing.value, nothing.interval) == (0, (0, 0))


def boxes(corners, classes, scores=None, ignored=None):
    count = len(corners)
    return Boxes(
        np.array(corners, float).reshape(-1, 4),
        np.array(classes, np.int64),
        np.ones(count) if scores is None else np.array(scores, float),
        np.zeros(count, bool) if ignored is None else np.array(ignored),
    )


def test_average_precision_of_a_case_made_by_hand():
    # 2 objects; found, missed, found: precision 1 up to recall 0.5 (51 of 101 recalls), 2/3 up to 1 (50)
    by_hand = (51 + 50 * 2 / 3) / 101
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx(by_hand)
    assert average_precision(np.array([False, False]), 2) == 0
    assert average_precision(np.array([True]), 2) == pytest.approx(51 / 101)
    assert average_precision(np.zeros(0, bool), 3) == 0
    one, two, off = [0, 0, 10, 10], [50, 50, 80, 80], [20, 20, 30, 30]
    truth, found = boxes([one, two], [0, 0]), boxes([one, off, two], [0, 0, 0], [0.9, 0.8, 0.7])
    precision = mean_average_precision([found], [truth], 1)
    assert (precision.at_50, precision.at_50_95) == pytest.approx((by_hand, by_hand))
    assert precision.interval == pytest.approx((by_hand, by_hand))


def test_the_interval_surrounds_the_score_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(30):
        corners = rng.uniform(0, 80, (6, 2))
        real = np.concatenate([corners, corners + rng.uniform(5, 20, (6, 2))], axis=1)
        truth.append(boxes(real, rng.integers(3, size=6), ignored=rng.random(6) < 0.2))
        near = np.concatenate([real + rng.normal(0, 1.5, real.shape), real[::-1] + 9])
        found.append(boxes(near, np.concatenate([truth[-1].classes, rng.integers(3, size=6)]), rng.random(12)))
    precision = mean_average_precision(found, truth, 3)
    low, high = precision.interval
    assert low < precision.at_50 < high
    assert high - low < 0.25
    doubled = mean_average_precision(found * 2, truth * 2, 3)
    assert doubled.at_50 == pytest.approx(precision.at_50, abs=1e-9)
    assert doubled.interval[1] - doubled.interval[0] < high - low
    assert precision.at_50_95 < precision.at_50


def test_overlaps_are_those_of_the_definition():
    first, second = torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 2, 6, 6])
    iou, giou = yolo.overlap(first, second)
    assert float(iou) == pytest.approx(4 / 28)
    assert float(giou) == pytest.approx(4 / 28 - 8 / 36)
    assert float(yolo.overlap(first, first)[0]) == 1


def test_of_two_boxes_on_one_object_the_more_probable_stays_but_other_classes_do_too():
    decoded = yolo.Decoded(
        torch.tensor([[[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 40]]]),
        torch.full((1, 4), 20.0),
        torch.tensor([[[1.0, -20], [2, -20], [-20, 3], [0, -20]]]),
        torch.zeros(4, 2),
        torch.ones(4),
    )
    found = yolo.detections(decoded, 0)
    assert found[:, 5].tolist() == [1, 0, 0]
    assert found[:, :4].tolist() == [[0, 0, 10, 10], [1, 0, 10, 10], [30, 30, 40, 40]]


def test_an_image_without_objects_only_teaches_that_there_are_none():
    maps = [torch.zeros(2, 7, 3, 4, requires_grad=True)]
    value = yolo.loss(maps, torch.full((2, 1, 5), -1.0), 24, 32)
    value.backward()
    assert torch.isfinite(value)
    assert (maps[0].grad[:, 4] > 0).all()
    assert (maps[0].grad[:, [0, 1, 2, 3, 5, 6]] == 0).all()


def test_distillation_is_zero_for_equal_maps():
    task = Detect2d([1, 3, 48, 64])
    maps = [torch.randn(2, 7, 3, 4), torch.randn(2, 7, 6, 8)]
    assert float(task.distillation(maps, maps)) == 0
    assert float(task.distillation(maps, [values + 2 for values in maps])) == pytest.approx(4, rel=1e-5)


def refused(data, said, split="train"):
    with pytest.raises(UserError, match=said) as caught:
        read_boxes(data, split, quiet)
    assert "\n" not in str(caught.value)


def test_mistakes_in_voc_folders_are_one_sentence(tmp_path):
    refused(tmp_path, r"has neither Annotations/ with XML \(VOC\) nor annotations/ with JSON")
    data = write_voc(tmp_path / "voc", 2, 1)
    first = data / "Annotations" / "0.xml"
    good = first.read_text()
    for text, said in (
        ("<annotation>", "is no annotation of VOC"),
        ("<annotation/>", "size/height is missing or no number"),
        (xml([("red", 1, 2, 9, 9)], width=0), "the image's size is 0x48"),
        (xml([("", 1, 2, 9, 9)]), "an object has no name"),
        (good.replace("<xmin>", "<xmin>a"), "could not convert string to float"),
        (good.replace("<xmin>", "<xmax>").replace("</xmin>", "</xmax>"), "bndbox/xmin is missing"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + good, "declares a document type or entities"),
    ):
        first.write_text(text)
        refused(data, said)
    first.write_bytes(good.encode("utf-16"))
    refused(data, "is no annotation of VOC")
    first.unlink()
    refused(data, r"There is no annotation .*0.xml")
    first.write_text(good)
    (data / "Annotations" / "100.xml").write_text(xml([("green", 1, 2, 9, 9)]))
    refused(data, r"100.png has a box of the class green, which no training image has", "test")
    (data / "JPEGImages" / "0.png").unlink()
    refused(data, r"JPEGImages has no image 0, which trainval.txt names|has no image 0, which train.txt names")
    listed = data / "ImageSets" / "Main" / "train.txt"
    listed.write_text("../0\n")
    refused(data, "a name without folders is needed")
    listed.write_text("\n")
    refused(data, r"train.txt names no image")
    listed.unlink()
    refused(data, "has no list of train images")


def test_boxes_beyond_an_image_are_clipped_and_those_without_area_left_out_with_a_word(tmp_path):
    data = write_voc(tmp_path / "voc", 2, 1)
    (data / "Annotations" / "0.xml").write_text(xml([("red", -5, 2, 900, 9), ("red", 9, 9, 9, 20), ("blue", 70, 1, 80, 9)]))
    said = []
    _, pictures = read_boxes(data, "train", lambda message, _: said.append(message))
    assert pictures[0].boxes.tolist() == [[0, 2, WIDTH, 9]]
    assert said == ["left out 2 boxes that have no area within their image"]


def test_an_image_of_another_size_than_its_boxes_is_refused(tmp_path):
    data = write_voc(tmp_path / "voc", 1, 1)
    Image.new("RGB", (10, 20)).save(data / "JPEGImages" / "0.png")
    examples = Detect2d([1, 3, HEIGHT, WIDTH]).examples(data, quiet)
    with pytest.raises(UserError, match=r"0.png is 10x20, but its boxes were drawn on 64x48"):
        examples.batch([0], np.random.default_rng(0))


def test_mistakes_in_coco_files_are_one_sentence(tmp_path):
    data = write_coco(tmp_path / "coco", 2, 1)
    file = data / "annotations" / "instances_train2017.json"
    good = json.loads(file.read_text())
    box = {"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4]}

    def changed(**parts):
        file.write_text(json.dumps({**good, **parts}))

    for parts, said in (
        ({"annotations": [{**box, "image_id": 9}]}, "a box on image 9, which it does not list"),
        ({"annotations": [{**box, "category_id": 9}]}, "a box of category 9, which it does not list"),
        ({"annotations": [{**box, "bbox": [1, 2]}]}, r"annotations.0.bbox"),
        ({"annotations": [{**box, "bbox": [1, 2, float("nan"), 4]}]}, "is no COCO annotation"),
        ({"annotations": []}, "has a box: there is nothing to learn from"),
        ({"images": []}, "is no COCO annotation: images"),
        ({"images": [*good["images"], {**good["images"][0], "file_name": "absent.png"}]}, "has no image absent.png"),
        ({"images": [*good["images"], {**good["images"][0], "file_name": "../x.png"}]}, "a name within the folder"),
        ({"images": [{**good["images"][0], "file_name": "absent.png"}], "annotations": []}, "has no image absent.png"),
    ):
        changed(**parts)
        refused(data, said)
    file.write_text("{")
    refused(data, "is no COCO annotation: the file")
    file.unlink()
    refused(data, r"has no list of train images")


def test_a_model_whose_maps_do_not_fit_the_classes_is_refused(voc):
    task = Detect2d([1, 3, HEIGHT, WIDTH])
    inputs, target = task.examples(voc, quiet).batch([0], np.random.default_rng(0))
    with pytest.raises(
        UserError, match=r"map has the shape \[1, 8, 6, 8\], but for the 2 classes of the data it must be \[N, 7, h, w\]"
    ):
        task.loss(Small(3)(inputs), target)
    with pytest.raises(UserError, match="for the 2 classes"):
        task.score(Small(3), voc, progress=quiet)
    with pytest.raises(UserError, match="not RGB images"):
        Detect2d([1, 64, 9, 9])

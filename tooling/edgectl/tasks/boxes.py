"""Images with boxes: folders as of PASCAL VOC (XML) and of COCO (JSON)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from edgectl.errors import UserError, first_line
from edgectl.images import IMAGE_SUFFIXES
from edgectl.tasks.task import Progress

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and what is on it.

    Attributes:
        file: the image.
        size: (height, width) that the boxes were drawn on.
        boxes: float64 [M, 4], left, top, right, bottom in pixels within the image, of some area.
        classes: int64 [M].
        ignored: bool [M]: crowds, and what VOC calls difficult: neither found nor missed counts.
    """

    file: Path
    size: tuple[int, int]
    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class _Box:
    name: str
    corners: tuple[float, float, float, float]
    ignored: bool


_Found = list[tuple[Path, tuple[int, int], list[_Box]]]


def read_boxes(data: Path, split: Split, progress: Progress) -> tuple[tuple[str, ...], list[Picture]]:
    """(class names by number, pictures) of a split of a data set; classes are those of training, sorted by name.

    `data` has `Annotations`, `JPEGImages` and `ImageSets/Main/*.txt` (VOC: `trainval` is trained on where there is a `test`,
    else `train`; `test` or `val` is scored), or `annotations/*train*.json` and `*val*.json` or `*test*.json` (COCO) beside the
    images, in folders of the splits' names or in `images`.

    Raises:
        UserError: the layout is neither, a file is missing or damaged, or labels disagree with images or classes.
    """
    read: Callable[[Path, Path], _Found]
    if (data / "Annotations").is_dir():
        read, train, test = _read_voc, _voc_lists(data, "train"), _voc_lists(data, "test")
    elif (data / "annotations").is_dir():
        read, train, test = _read_coco, _coco_files(data, "train"), _coco_files(data, "val") or _coco_files(data, "test")
    else:
        raise UserError(f"{data} has neither Annotations/ with XML (VOC) nor annotations/ with JSON (COCO).")
    chosen = train if split == "train" else test
    if chosen is None:
        raise UserError(f"{data} has no list of {split} images: ImageSets/Main/{split}.txt or annotations/*{split}*.json.")
    found = read(data, chosen)
    trained = found if chosen == train or train is None else read(data, train)
    classes = tuple(sorted({box.name for _, _, boxes in trained for box in boxes}))
    if not classes:
        raise UserError(f"No image of {data} has a box: there is nothing to learn from or to find.")
    pictures = [_picture(file, size, boxes, classes) for file, size, boxes in found]
    lost = sum(len(boxes) for _, _, boxes in found) - sum(len(picture.boxes) for picture in pictures)
    if lost:
        progress(f"left out {lost} boxes that have no area within their image", None)
    return classes, pictures


def _picture(file: Path, size: tuple[int, int], boxes: list[_Box], classes: tuple[str, ...]) -> Picture:
    unknown = next((box.name for box in boxes if box.name not in classes), None)
    if unknown is not None:
        raise UserError(f"{file.name} has a box of the class {unknown}, which no training image has.")
    height, width = size
    corners = np.array([box.corners for box in boxes], np.float64).reshape(-1, 4)
    corners = np.clip(corners, 0, [width, height, width, height])
    kept = (corners[:, 2:] - corners[:, :2] > 0).all(axis=1)
    numbers = np.array([classes.index(box.name) for box in boxes], np.int64)
    return Picture(file, size, corners[kept], numbers[kept], np.array([box.ignored for box in boxes], bool)[kept])


def _voc_lists(data: Path, split: Split) -> Path | None:
    folder = data / "ImageSets" / "Main"
    names = ("test", "val") if split == "test" else ("trainval", "train") if (folder / "test.txt").is_file() else ("train",)
    return next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)


def _read_voc(data: Path, listed: Path) -> _Found:
    try:
        names = [line.split()[0] for line in listed.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listed} cannot be read: {error}.") from error
    if not names:
        raise UserError(f"{listed} names no image.")
    found: _Found = []
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{listed} names {name}: a name without folders is needed.")
        size, boxes = _read_xml(data / "Annotations" / f"{name}.xml")
        images = (data / "JPEGImages" / f"{name}{suffix}" for suffix in (".jpg", *IMAGE_SUFFIXES, ".JPG", ".JPEG", ".PNG"))
        image = next((file for file in images if file.is_file()), None)
        if image is None:
            raise UserError(f"{data / 'JPEGImages'} has no image {name}, which {listed.name} names.")
        found.append((image, size, boxes))
    return found


def _read_xml(file: Path) -> tuple[tuple[int, int], list[_Box]]:
    """(height, width) and boxes of a VOC annotation, whose first pixel is 1 and whose last is within the box."""
    try:
        text = file.read_text("utf-8")
        if "<!" in text.replace("<!--", ""):
            raise UserError(f"{file} declares a document type or entities, which no annotation needs: it is refused.")
        root = ElementTree.fromstring(text)
        height, width = (int(_number(root, f"size/{side}")) for side in ("height", "width"))
        if height < 1 or width < 1:
            raise ValueError(f"the image's size is {width}x{height}")
        boxes = []
        for item in root.iter("object"):
            left, top, right, bottom = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            name = (item.findtext("name") or "").strip()
            if not name:
                raise ValueError("an object has no name")
            boxes.append(_Box(name, (left - 1, top - 1, right, bottom), (item.findtext("difficult") or "0").strip() == "1"))
    except FileNotFoundError as error:
        raise UserError(f"There is no annotation {file}.") from error
    except (OSError, UnicodeDecodeError, ElementTree.ParseError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no annotation of VOC: {first_line(error)}.") from error
    return (height, width), boxes


def _number(item: ElementTree.Element, path: str) -> float:
    value = float(item.findtext(path) or "nan")
    if not math.isfinite(value):
        raise ValueError(f"{path} is missing or no number")
    return value


class _Image(BaseModel):
    id: int
    file_name: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[_Finite, _Finite, _Finite, _Finite]
    iscrowd: int = 0


class _Category(BaseModel):
    id: int
    name: str = Field(min_length=1)


class _Coco(BaseModel):
    images: list[_Image] = Field(min_length=1)
    annotations: list[_Annotation]
    categories: list[_Category]


def _coco_files(data: Path, split: str) -> Path | None:
    files = sorted((data / "annotations").glob(f"*{split}*.json"))
    files = [file for file in files if file.name.startswith("instances")] or files
    if len(files) > 1:
        raise UserError(
            f"{data / 'annotations'} has several files of {split} images: leave one of {files[0].name}, {files[1].name}."
        )
    return files[0] if files else None


def _read_coco(data: Path, file: Path) -> _Found:
    try:
        coco = _Coco.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{file} is no COCO annotation: {where}: {first['msg'].lower()}.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    names = {category.id: category.name for category in coco.categories}
    boxes: dict[int, list[_Box]] = {image.id: [] for image in coco.images}
    for item in coco.annotations:
        if item.image_id not in boxes:
            raise UserError(f"{file} has a box on image {item.image_id}, which it does not list.")
        if item.category_id not in names:
            raise UserError(f"{file} has a box of category {item.category_id}, which it does not list.")
        left, top, width, height = item.bbox
        corners = (left, top, left + width, top + height)
        boxes[item.image_id].append(_Box(names[item.category_id], corners, bool(item.iscrowd)))
    folder = _coco_folder(data, file, coco.images[0].file_name)
    found: _Found = []
    for image in coco.images:
        if Path(image.file_name).is_absolute() or ".." in Path(image.file_name).parts:
            raise UserError(f"{file} names the image {image.file_name}: a name within the folder of images is needed.")
        if not (folder / image.file_name).is_file():
            raise UserError(f"{folder} has no image {image.file_name}, which {file.name} names.")
        found.append((folder / image.file_name, (image.height, image.width), boxes[image.id]))
    return found


def _coco_folder(data: Path, file: Path, name: str) -> Path:
    """The folder of images: that has the first one, if possible of the name of the annotations' split."""
    folders = [
        base / sub for base in (data, data / "images") for sub in (file.stem.rpartition("_")[2], "train", "val", "test", "")
    ]
    found = next((folder for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{data} has no image {name}, which {file.name} names, in {file.stem.rpartition('_')[2]}/ or images/.")
    return found

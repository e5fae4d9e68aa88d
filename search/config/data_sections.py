"""The section `data` of a study file: one class for each kind of data, with its validation rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.config.sections import Section


class Folded(Section):
    """A data set whose training and validation images can be divided into folds.

    Attributes:
        folds: Number of folds, at least 2: training and validation images together are divided into as many parts, with each
            class's share in each. Every trial validates on the first part and trains on the others; the best ones are trained again
            with other parts as validation split. Null: the data set's own validation split, or the one that is drawn.
    """

    folds: int | None = Field(default=None, ge=2)


class Digits(Folded):
    """The bundled handwritten digits of scikit-learn: 200 images to train, 800 to validate, 797 to test."""

    kind: Literal["digits"]


class Emoji(Folded):
    """The bundled emoji, and who drew them: 1,200 images to train, 1,000 to validate, 1,156 to test.

    In folds, all drawings of an emoji and of its variants stay together.
    """

    kind: Literal["emoji"]


class Scenes(Folded):
    """The packaged scenes of emoji on photographs, with masks: 300 images to train, 150 to validate, 150 to test."""

    kind: Literal["scenes"]


class Synthetic(Folded):
    """A synthetic surface with a known front instead of training, to try searches without torch (see `trainables.simulated.plain`).

    Attributes:
        surface: Surface: `plain` (lora, arc and lily only), or a family with all methods, `valley` or `crossing`
            (`trainables.simulated.surfaces`).
        instance: Number of the family's member.
        noise: Standard deviation of the accuracy around the plain surface.
        diverges_above_lr: Learning rate above which trials end in NaN on the plain surface.
        epoch_seconds: Duration of an epoch.
        memory_params: Size above which adapters run out of memory in their second epoch.
    """

    kind: Literal["synthetic"]
    surface: Literal["plain", "valley", "crossing"] = "plain"
    instance: int = Field(default=0, ge=0)
    noise: float = Field(default=0.0, ge=0.0)
    diverges_above_lr: float | None = Field(default=None, gt=0.0)
    epoch_seconds: float = Field(default=0.0, ge=0.0)
    memory_params: int | None = Field(default=None, ge=0)


class Normalization(Section):
    """The mean and the standard deviation of pixels in [0, 1], per channel.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: Annotated[list[float], Field(min_length=1, max_length=4)]
    std: Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=1, max_length=4)]

    @model_validator(mode="after")
    def _one_each(self) -> Normalization:
        if len(self.mean) != len(self.std):
            raise ValueError(f"a mean and a std for each channel: got {len(self.mean)} and {len(self.std)}")
        return self


class Images(Folded):
    """Images on a disk; see `trainables.data.layouts` for the supported layouts.

    Attributes:
        path: Folder (or Parquet file) of the images.
        on_problem: Reaction to a broken image, an unknown label, a class that is too small, or the same bytes in two splits:
            `refuse` to start, or `skip` such images and list them.
        resize: Resize mode: `crop` keeps the aspect ratio and takes the centre, `squash` scales the whole image to the input's
            size.
        crop_fraction: Fraction of the short side that `crop` keeps; 0.875 is "resize to 256, crop 224".
        interpolation: Resize filter; null for the backbone's own.
        augment: Augmentation of the training images, newly drawn in every epoch: `none`, `flip` (mirror half of them), or `crop` (a
            random crop of the input's size within the central square, and flip).
        min_images: Minimum number of training images of a class.
        exif: `ignore` or `apply` the orientation that a camera wrote into a photograph; the papers' loaders ignore it.
        background: Colour behind transparent pixels, `black` or `white`; null for the colour that the file stores below them.
        normalize: Normalisation (pixel - mean) / std of pixels in [0, 1]: `backbone` (the values of its weights), `imagenet`,
            `none` (mean 0, std 1), or `{mean: [...], std: [...]}` with a value per channel.
        watch: Other data sets with the same classes, a path by name. A trial is scored on them when it is complete; nothing is
            trained or chosen on them.
        group: Images that stay in one fold, because they show the same object: a column of the Parquet files or of the CSV file of
            labels; or a regular expression with one group in parentheses, for an image's path below `path`. Null: each for itself.
    """

    path: Path
    on_problem: Literal["refuse", "skip"] = "refuse"
    resize: Literal["crop", "squash"] = "crop"
    crop_fraction: float = Field(default=0.875, gt=0.0, le=1.0)
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    augment: Literal["none", "flip", "crop"] = "none"
    min_images: int = Field(default=1, ge=0)
    exif: Literal["ignore", "apply"] = "ignore"
    background: Literal["black", "white"] | None = None
    normalize: Literal["backbone", "imagenet", "none"] | Normalization = "backbone"
    watch: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")], Path] = Field(default_factory=dict)
    group: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _groups_are_of_folds(self) -> Images:
        if self.group is not None and self.folds is None:
            raise ValueError("group says which images stay in one fold; it needs folds: K")
        return self

    @model_validator(mode="after")
    def _crop_is_possible(self) -> Images:
        if self.augment == "crop" and (self.resize == "squash" or self.crop_fraction == 1.0):
            raise ValueError("augment: crop cuts pieces out of a larger image: it needs resize: crop and a crop_fraction below 1")
        return self


class ImageFolder(Images):
    """The layout PATH/train/CLASS/IMAGE, PATH/val/..., PATH/test/...; or PATH/CLASS/IMAGE, split by the study's seed.

    Attributes:
        labels: CSV file with any number of labels for each image, below `path`; null: the folder of an image is its class.
        val_fraction: Fraction of each class's images for validation, if the data set has no validation split.
        test_fraction: Fraction of each class's images for the test split, if the data set has no splits at all; 0 for none.
    """

    kind: Literal["imagefolder"]
    labels: Path | None = None
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)


class Parquet(Images):
    """The image layout of Hugging Face: a column of structs of bytes and path, and a column of labels.

    Attributes:
        image_column: Name of the column of images.
        label_column: Name of the column of labels.
        val_fraction: Fraction for validation, as in `imagefolder`.
        test_fraction: Fraction for the test split, as in `imagefolder`.
    """

    kind: Literal["parquet"]
    image_column: str = "image"
    label_column: str = "label"
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)


class Vtab(Images):
    """The layout of VTAB-1k in the papers: train800.txt, val200.txt, test.txt, lines "images/1.jpg 3"; squashed, not augmented.

    Attributes:
        n_classes: Number of classes of the task; null for the largest label in the files, plus 1.
    """

    kind: Literal["vtab"]
    n_classes: int | None = Field(default=None, gt=1)
    resize: Literal["crop", "squash"] = "squash"
    min_images: int = Field(default=0, ge=0)


class Fgvc(Images):
    """The FGVC splits of VPT: train.json, val.json, test.json, {"image": label}; cropped at random and mirrored."""

    kind: Literal["fgvc"]
    augment: Literal["none", "flip", "crop"] = "crop"
    val_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)


class WithMasks(Images):
    """Images with masks, whose pixels have classes.

    A mask is resized and cut out as its image is, by nearest neighbour; by default both are squashed, so that every pixel counts.
    """

    resize: Literal["crop", "squash"] = "squash"
    min_images: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _classes_are_of_pixels(self) -> WithMasks:
        for key in ("watch", "min_images"):
            if getattr(self, key):
                raise ValueError(f"{key} is for images with labels, and these have masks; leave it out")
        return self


class Masks(WithMasks):
    """Folders images and masks: images/train/x.jpg has masks/train/x.png; or images/x.jpg, split by the study's seed.

    Attributes:
        classes: File below `path` with a name of a class in each line, the first of the value 0 in masks.
        ignore_index: Value of pixels that are neither trained nor measured on, and no class; null for no such value.
        val_fraction: Fraction of the images for validation, if the data set has no validation split.
        test_fraction: Fraction of the images for the test split, if the data set has no splits at all; 0 for none.
    """

    kind: Literal["masks"]
    classes: Path = Path("classes.txt")
    ignore_index: int | None = Field(default=255, ge=0, le=255)
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)


class Voc(WithMasks):
    """The folder VOC2012 of PASCAL VOC: its train.txt to train and validate, its val.txt to test.

    Attributes:
        val_fraction: Fraction of the training images for validation.
    """

    kind: Literal["voc"]
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)


class Ade20k(WithMasks):
    """The folder ADEChallengeData2016 of ADE20K: its training images to train and validate, its validation images to test.

    Attributes:
        val_fraction: Fraction of the training images for validation.
    """

    kind: Literal["ade20k"]
    val_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)


DATA_KINDS: dict[str, type[Section]] = {
    "digits": Digits,
    "emoji": Emoji,
    "imagefolder": ImageFolder,
    "vtab": Vtab,
    "fgvc": Fgvc,
    "parquet": Parquet,
    "masks": Masks,
    "voc": Voc,
    "ade20k": Ade20k,
    "scenes": Scenes,
    "synthetic": Synthetic,
}

"""The packaged scenes: their masks are exact, their splits share no emoji, and a trial on them resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables import data as images
from trainables import make
from trainables.backbones import Preprocessing
from trainables.data.scenes import SCENE, SCENE_CLASSES, SCENES_SPLIT, _photographs, _transparent, scenes, scenes_split

from ..short import shortened


def is_a_piece(pixels: np.ndarray, own: np.ndarray, whole: np.ndarray) -> bool:
    """Whether the pixels of an image (3, h, w) that are `own` are those of one piece of a whole (3, H, W)."""
    where = np.argwhere(own)
    wanted = pixels[:, where[:, 0], where[:, 1]]
    room = [have - want + 1 for have, want in zip(whole.shape[1:], own.shape, strict=True)]
    (y, x), first = where[0], wanted[:, 0, None, None]
    corners = np.argwhere((whole[:, y : y + room[0], x : x + room[1]] == first).all(0))
    return any(np.array_equal(whole[:, where[:, 0] + top, where[:, 1] + left], wanted) for top, left in corners)


def test_where_a_mask_says_photograph_the_pixels_are_the_photographs() -> None:
    found, masks = scenes()
    assert (found.shape, masks.shape) == ((600, 3, SCENE, SCENE), (600, SCENE, SCENE))
    photographs = [photo.transpose(2, 0, 1) for photo in _photographs()]
    for n in (0, 599):
        assert any(is_a_piece(found[n].numpy(), masks[n].numpy() == 0, photo) for photo in photographs)
    for own in scenes_split().values():
        present = np.bincount(masks[own].flatten().numpy(), minlength=len(SCENE_CLASSES)) / masks[own].numel()
        assert 0.5 < present[0] < 0.9  # photograph
        assert (present[1:] > 0.03).all()


def test_white_inside_of_a_drawing_is_not_transparent() -> None:
    drawing = np.full((3, 8, 8), 255, np.uint8)
    drawing[:, 2:7, 2:7] = 40
    drawing[:, 4, 4] = 255
    transparent = _transparent(drawing)
    assert transparent.sum() == 64 - 25
    assert not transparent[4, 4]


def test_they_are_resized_with_their_masks_and_folds_divide_training_and_validation() -> None:
    half = Preprocessing(3, (32, 32), (0.5,) * 3, (0.5,) * 3, "nearest")
    splits = images.load({"kind": "scenes"}, half, ("train", "validation", "test"))
    assert {name: len(split) for name, split in splits.items()} == SCENES_SPLIT
    assert splits["test"].targets.shape == (150, 32, 32)
    assert set(splits["test"].targets.unique().tolist()) == set(range(len(SCENE_CLASSES)))
    assert (images.task_of({"kind": "scenes"}).name, images.n_classes({"kind": "scenes"})) == ("segmentation", 4)
    folded = images.load({"kind": "scenes", "folds": 3, "fold": 1}, half)
    assert {name: len(split) for name, split in folded.items()} == {"train": 300, "validation": 150}


def test_a_trial_on_them_resumes_to_the_bit(tmp_path: Path) -> None:
    def train(folder: Path, n: int) -> dict[str, float]:
        made = make({"name": "vit_emoji", "img_size": 64}, {"kind": "scenes"}, {"device": "cpu", "metric": "miou"})
        trial, config = (
            shortened(made, n_train=16, n_validation=4),
            {"method": "convpass", "optim.lr": 5e-3, "optim.batch_size": 8},
        )
        for _ in range(trial.start(config, seed=0, epochs=2, folder=folder), n):
            trial.step()
        found = trial.replay()
        assert found is not None
        return {key: value for key, value in found.items() if not key.startswith("cost/")}

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "killed", 1)
    assert train(tmp_path / "killed", 2) == whole

"""The packaged images: what their cards say of them is true."""

from __future__ import annotations

import hashlib

import pytest
import torch

from trainables.backbones import Preprocessing
from trainables.data import class_names, load, n_classes, n_images
from trainables.data.emoji import EMOJI_SETS, EMOJI_SPLIT, emoji, emoji_card, emoji_split
from trainables.data.packaged import PACKAGED, resize
from trainables.weights.emoji_sets import SOURCES
from trainables.weights.pretrain_emoji import ARCHITECTURE

GREY = Preprocessing(1, (32, 32), (0.5,), (0.5,), "bicubic")


@pytest.mark.parametrize("kind", PACKAGED)
def test_every_image_is_in_one_split_and_every_split_has_every_class(kind: str) -> None:
    (images, labels), order = PACKAGED[kind].images(), PACKAGED[kind].split()
    assert torch.equal(torch.cat(list(order.values())).sort().values, torch.arange(len(images)))
    for name, index in order.items():
        assert len(index) == n_images({"kind": kind}, name)
        assert set(labels[index].unique().tolist()) == set(range(n_classes({"kind": kind})))
    assert len(class_names({"kind": kind}) or ()) == n_classes({"kind": kind})


def test_the_emoji_are_those_of_their_card_each_drawn_once_in_every_set() -> None:
    images, card = emoji()[0], emoji_card()
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == card["pixels_sha256"]
    assert {name: 4 * len(codes) for name, codes in card["splits"].items()} == EMOJI_SPLIT
    assert tuple(card["sets"]) == EMOJI_SETS == tuple(SOURCES)
    assert {name: source["sha256"] for name, source in card["sets"].items()} == {n: s.digest for n, s in SOURCES.items()}
    assert images.shape[2] == ARCHITECTURE["img_size"]


def test_no_emoji_is_in_two_splits_and_no_two_images_have_the_same_pixels() -> None:
    codes = [code for split in emoji_card()["splits"].values() for code in split]
    assert len(set(codes)) == len(codes)
    assert len({image.numpy().tobytes() for image in emoji()[0]}) == len(emoji()[0])
    assert list(emoji_split()) == list(EMOJI_SPLIT)


def test_colours_do_not_fit_a_grey_backbone_and_grey_fits_a_coloured_one() -> None:
    with pytest.raises(ValueError, match="3 channels do not fit a backbone of 1"):
        load({"kind": "emoji"}, GREY)
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert resize(grey, Preprocessing(3, (16, 16), (0.5,), (0.5,), "bicubic")).shape == (2, 3, 16, 16)

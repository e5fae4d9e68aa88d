"""Data sets: splits that nobody can move, images as the backbone wants them."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from trainables.backbones import Preprocessing
from trainables.data import Normaliser, class_names, load, n_classes
from trainables.data.digits import DIGITS_SPLIT, digits, digits_split
from trainables.data.listing import apportion
from trainables.data.packaged import resize

GREY8 = Preprocessing(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), interpolation="bicubic")


def test_the_digits_split_is_the_one_that_was_published_with_the_first_release() -> None:
    listed = ";".join(f"{name}:{','.join(map(str, order.tolist()))}" for name, order in digits_split().items())
    assert hashlib.sha256(listed.encode()).hexdigest() == "39d99ebe7afa3299680716ece5da3534aa823a9d499daac68df8bcdebaa0aed8"


def test_the_packaged_digits_are_those_of_scikit_learn() -> None:
    original = load_digits()
    images, labels = digits()
    assert torch.equal(images[:, 0], torch.from_numpy((original.images * 255 / 16).round()).to(torch.uint8))
    assert torch.equal(labels, torch.from_numpy(original.target))
    assert class_names({"kind": "digits"}) == [str(name) for name in original.target_names]


def test_a_data_set_without_names_has_none() -> None:
    assert class_names({"kind": "none", "n_classes": 3}) is None


def test_the_digits_split_is_disjoint_complete_and_of_the_promised_sizes() -> None:
    split = digits_split()
    assert {name: len(order) for name, order in split.items()} == {"train": 200, "validation": 800, "test": 797}
    assert sorted(torch.cat(list(split.values())).tolist()) == list(range(1797))


def test_the_digits_split_is_stratified_to_one_image() -> None:
    labels = torch.from_numpy(load_digits().target)
    share = torch.bincount(labels) / 1797
    for name, order in digits_split().items():
        assert ((torch.bincount(labels[order]) - DIGITS_SPLIT[name] * share).abs() <= 1).all()


def test_a_search_that_names_no_split_sees_train_and_validation_only() -> None:
    splits = load({"kind": "digits"}, GREY8)
    assert set(splits) == {"train", "validation"}
    assert len(load({"kind": "digits"}, GREY8, ["test"])["test"]) == 797


def test_digits_at_their_own_size_are_the_source_pixels() -> None:
    original, order = load_digits(), digits_split()["train"]
    train = load({"kind": "digits"}, GREY8)["train"]
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.labels, torch.from_numpy(original.target)[order])
    expected = torch.from_numpy(original.images)[order, None] * 255 / 16
    assert (train.images.double() - expected).abs().max() <= 0.5


def test_images_are_brought_to_the_backbones_size_and_channels() -> None:
    rgb = Preprocessing(3, (20, 12), (0.5,) * 3, (0.5,) * 3, "bilinear")
    images = resize(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), rgb)
    assert torch.equal(images, torch.full((2, 3, 20, 12), 77, dtype=torch.uint8))


def test_images_with_more_channels_than_the_backbone_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 3 channels do not fit a backbone of 1"):
        resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), GREY8)


def test_normalising_is_the_textbook_formula() -> None:
    wanted = Preprocessing(3, (2, 2), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    images = torch.randint(0, 256, (5, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = (images.double() / 255 - torch.tensor(wanted.mean).view(3, 1, 1)) / torch.tensor(wanted.std).view(3, 1, 1)
    ours = Normaliser(wanted, torch.device("cpu"))(images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6)


@given(st.integers(0, 500), st.lists(st.integers(0, 100), min_size=1).filter(any))
def test_apportioned_shares_add_up_and_are_within_one_of_their_quota(total: int, weights: list[int]) -> None:
    shares = apportion(total, weights)
    assert sum(shares) == total
    assert all(abs(share - total * weight / sum(weights)) < 1 for share, weight in zip(shares, weights, strict=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "digit"}, r"data\.kind must be one of digits, .*synthetic; got 'digit'; did you mean digits\?"),
        ({}, r"data\.kind must be one of digits, .*synthetic; got None"),
        ({"kind": "none", "n_classes": 0}, r"data\.n_classes must be a positive whole number .*; got 0"),
        ({"kind": "none", "n_classes": 5}, r"data\.kind 'none' has no images to train on"),
    ],
)
def test_an_unknown_data_set_is_refused_with_what_exists(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(data, GREY8)


def test_an_unknown_split_is_refused_with_what_exists() -> None:
    with pytest.raises(ValueError, match=r"splits are train, validation, test; got \['val'\]"):
        load({"kind": "digits"}, GREY8, ["val"])


def test_classes_are_known_without_decoding() -> None:
    assert n_classes({"kind": "digits"}) == 10
    assert n_classes({"kind": "none", "n_classes": 7}) == 7

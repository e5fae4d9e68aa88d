"""The sets of emoji, and the backbone that learned to name those that the packaged question does not have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.backbones import WEIGHTS
from trainables.data.emoji import emoji_card
from trainables.weights import emoji_sets, pretrain_emoji
from trainables.weights.emoji_sets import SIZES, SOURCES, Emoji
from trainables.weights.pretrain import Recipe


def drawn(code: str, number: int, sets: int = 4, subject: str | None = None) -> Emoji:
    """An emoji of noise, the same for the same number."""
    random = np.random.default_rng(number)
    drawings = {name: random.integers(0, 256, (64, 64, 4), dtype=np.uint8) for name in list(SOURCES)[:sets]}
    return Emoji(code, subject or code, drawings)


def test_an_emoji_is_asked_for_or_pretrained_on_and_its_variants_are_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_sets, "SIZES", {"train": 60, "validation": 40})
    every = [drawn(f"{i:04X}", i, sets=4 if i % 5 else 2, subject=f"{i // 3}") for i in range(120)]
    every.append(drawn("FFFF", 1, subject="0"))  # the drawings of 0001
    splits, rest = emoji_sets.halves(every)
    assert 48 < 4 * len(splits["train"]) <= 60  # the last subject may not fit
    assert 28 < 4 * len(splits["validation"]) <= 40
    where = [{one.subject for one in part} for part in (*splits.values(), rest)]
    assert all(not a & b for i, a in enumerate(where) for b in where[i + 1 :])
    assert all(len(one.drawings) == 4 for part in splits.values() for one in part)
    assert "FFFF" not in {one.code for part in splits.values() for one in part}
    assert any(len(one.drawings) == 2 for one in rest)


def test_a_missing_or_changed_package_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"emoji-datasource-google-16.0.0.tgz is missing; run `npm pack emoji-datasource-google@16"
    ):
        emoji_sets.read(tmp_path)
    (tmp_path / "emoji-datasource-google-16.0.0.tgz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"must have the SHA-256 fb5fd131"):
        emoji_sets.read(tmp_path)


def test_pretraining_writes_the_same_backbone_for_the_same_seed(tmp_path: Path) -> None:
    few, recipe = [drawn(str(i), i) for i in range(5)], Recipe(n_steps=2, batch_size=8, n_eval=8)
    for name in ("one", "two"):
        pretrain_emoji.pretrain(tmp_path / name, few, recipe, seed=3)
    one, two = ((tmp_path / name / "vit_emoji.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert json.loads((tmp_path / "one" / "vit_emoji.json").read_text())["classes"] == ["0", "1", "2", "3", "4"]


def test_varied_drawings_are_pictures_in_colour() -> None:
    drawings = torch.from_numpy(np.stack([emoji_sets.canvas(drawing) for drawing in drawn("0", 0).drawings.values()]))
    images = pretrain_emoji.vary(drawings, torch.Generator().manual_seed(0))
    assert images.shape == (4, 3, emoji_sets.SIDE, emoji_sets.SIDE)
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_the_packaged_backbone_has_seen_no_emoji_of_the_question() -> None:
    card, asked = json.loads((WEIGHTS / "vit_emoji.json").read_text()), emoji_card()["splits"]
    assert not set(card["classes"]) & {code for split in asked.values() for code in split}
    assert card["recipe"]["n_steps"] == pretrain_emoji.RECIPE.n_steps
    assert card["architecture"] == pretrain_emoji.ARCHITECTURE
    assert sum(SIZES.values()) == 4 * sum(len(asked[name]) for name in SIZES)

"""The packaged backbone and its source: no digit is drawn, samples follow the seed, the shipped files agree with each other."""

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from trainables.weights import glyphs, pretrain

pytestmark = pytest.mark.slow

WEIGHTS = Path(glyphs.__file__).parent
FACES = ("DejaVuSans", "cmr10", "DejaVuSerif-Italic")  # the last one is held out


@pytest.fixture(scope="module")
def small_atlas() -> glyphs.Atlas:
    return glyphs.atlas("ABCDEFGHabcdefgh", FACES)


@pytest.fixture(scope="module")
def latin_atlas() -> glyphs.Atlas:
    """One face, every character of `BLOCKS` that it has."""
    return glyphs.atlas(faces=("STIXGeneral",))


@pytest.mark.parametrize("digit", [*"0123456789", *"²₂①❶⓪¼٣३፫〇Ⅷⅷ㈠🄂𝟗", "ƻ", "∛", "㊀"])
def test_a_digit_in_any_script_or_disguise_is_no_class(digit: str) -> None:
    assert glyphs.is_digit(digit)
    assert glyphs.letter(digit) is None


def test_no_class_holds_a_digit(latin_atlas: glyphs.Atlas) -> None:
    characters = [character for members in latin_atlas.classes for character in members]
    assert len(characters) > 300
    for character in characters:
        for part in character + unicodedata.normalize("NFKD", character):
            assert unicodedata.digit(part, None) is None, f"U+{ord(part):04X}"
            assert unicodedata.numeric(part, None) is None, f"U+{ord(part):04X}"
            assert not unicodedata.category(part).startswith("N"), f"U+{ord(part):04X}"


def test_the_packaged_backbone_was_trained_on_the_classes_that_are_drawn_today() -> None:
    assert all(glyphs.letter(character) == character for members in _card()["classes"] for character in members)


def test_a_styled_letter_belongs_to_its_letter() -> None:
    assert [glyphs.letter(character) for character in "A𝒜𝔄𝔸𝐀"] == ["A"] * 5


def test_every_glyph_has_ink_and_a_centre_line_inside_it(small_atlas: glyphs.Atlas) -> None:
    outline, centre = small_atlas.maps.float().unbind(1)
    on_the_line = centre == 0
    assert (on_the_line.sum((1, 2)) > 10).all()
    assert (outline[on_the_line] < 0).all()
    assert len(small_atlas.maps) == len(small_atlas.labels) == len(small_atlas.held_out) == len(small_atlas.rim)


def test_held_out_faces_are_never_drawn_for_training(small_atlas: glyphs.Atlas) -> None:
    known, _ = small_atlas.faces(held_out=False)
    kept, n_kept = small_atlas.faces(held_out=True)
    assert not set(known.flatten().tolist()) & set(kept.flatten().tolist()) - {-1}
    assert int(n_kept.sum()) == int(small_atlas.held_out.sum()) > 0


def test_letters_that_fill_the_same_box_alike_are_one_class(small_atlas: glyphs.Atlas) -> None:
    assert "Cc" in small_atlas.classes
    assert {"A", "a"} <= set(small_atlas.classes)


def test_samples_follow_the_seed_and_nothing_else(small_atlas: glyphs.Atlas) -> None:
    which = torch.arange(16) % len(small_atlas.labels)
    first, again, other = (glyphs.render(small_atlas, which, torch.Generator().manual_seed(seed), size=16) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_are_images_with_ink(small_atlas: glyphs.Atlas) -> None:
    images = glyphs.render(small_atlas, torch.zeros(64, dtype=torch.long), torch.Generator().manual_seed(0), size=16)
    assert images.shape == (64, 1, 16, 16)
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    assert (images.amax((1, 2, 3)) > 0.3).all()


def test_an_undistorted_sample_is_its_glyph(small_atlas: glyphs.Atlas) -> None:
    still = glyphs.Style(0.0, 0.0, (0.0, 0.0), 0.0, pen=0.0, stroke=(2.0, 2.0), weight=-0.5, fill=1.0, resolutions=(16,), blur=0.0)
    still_image = glyphs.render(small_atlas, torch.tensor([0]), torch.Generator().manual_seed(0), size=16, style=still)[0, 0]
    ink = (small_atlas.maps[0, 0] < 0).float()[None, None]
    rim = (glyphs.CANVAS - glyphs.BOX) // 2
    expected = torch.nn.functional.interpolate(ink[:, :, rim:-rim, rim:-rim], size=16, mode="area")[0, 0]
    ours, theirs = still_image.flatten() - still_image.mean(), expected.flatten() - expected.mean()
    assert float(ours @ theirs / (ours.norm() * theirs.norm())) > 0.9


def test_an_atlas_without_a_glyph_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="at least one glyph"):
        glyphs.atlas("7", ("DejaVuSans",))


def test_pretraining_writes_a_backbone_that_timm_loads_and_the_same_seed_writes_it_again(
    small_atlas: glyphs.Atlas, tmp_path: Path
) -> None:
    recipe = pretrain.Recipe(n_steps=4, batch_size=8, n_eval=16)
    cards = [pretrain.pretrain(tmp_path / name, small_atlas, recipe, seed=3) for name in ("one", "two")]
    one, two = ((tmp_path / name / "vit_glyphs.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert cards[0]["source_accuracy"] == cards[1]["source_accuracy"]
    assert json.loads((tmp_path / "one" / "vit_glyphs.json").read_text())["seed"] == 3
    _load(tmp_path / "one")


def test_the_packaged_weights_fit_the_packaged_architecture() -> None:
    model = _load(WEIGHTS)
    assert sum(weight.numel() for weight in model.parameters()) == _card()["n_params"]
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_the_packaged_weights_are_small_and_safetensors_only() -> None:
    path = WEIGHTS / "vit_glyphs.safetensors"
    assert path.stat().st_size <= 3_000_000
    with safe_open(path, "pt") as weights:  # type: ignore[no-untyped-call]
        assert not any(name.startswith("head.") for name in weights.keys())  # noqa: SIM118
    assert {entry.suffix for entry in WEIGHTS.iterdir() if entry.is_file()} <= {".py", ".json", ".safetensors"}


def test_the_packaged_backbone_can_name_letters_that_it_was_never_shown() -> None:
    """Faces held out: chance is one in a thousand. The exact figure is in the JSON."""
    card, small = _card(), glyphs.atlas("ABDEFGHKLMNPRSTWXYZ", ("DejaVuSerif-Italic", "DejaVuSans"))
    assert card["source_accuracy"]["held_out_faces"] > 100 / card["n_classes"]
    model = _load(WEIGHTS)
    images = [
        glyphs.render(small, table[table >= 0].repeat(40), torch.Generator().manual_seed(1), size=card["architecture"]["img_size"])
        for table in (small.faces(held_out)[0][:, :1] for held_out in (False, True))
    ]
    with torch.no_grad():  # each held-out letter's mean feature is nearest to the known face's
        known, new = (
            model((part - card["mean"][0]) / card["std"][0]).reshape(40, len(small.classes), -1).mean(0) for part in images
        )
    nearest = torch.cdist(new, known).argmin(1)
    assert (nearest == torch.arange(len(small.classes))).float().mean() > 0.7


def _card() -> dict[str, object]:
    return json.loads((WEIGHTS / "vit_glyphs.json").read_text())


def _load(folder: Path) -> VisionTransformer:
    card = json.loads((folder / "vit_glyphs.json").read_text())
    model = VisionTransformer(num_classes=0, **card["architecture"])
    weights = load_file(folder / "vit_glyphs.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=True)
    return model.eval()

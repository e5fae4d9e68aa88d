"""`paretune init`: what it proposes fits, and is a study file that can be searched."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.config import loading
from search.samplers.auto import EXPECTED
from search.samplers.start import n_start
from search.study.checks import note_on_budget, note_on_grace, note_on_hours
from search.workflows import first_file
from search.workflows.first_file import METHODS, choose, hours_needed, image_sizes, usual_epochs
from search.workflows.init import study_name
from trainables.data.first_look import look

from ...trainables.data.pictures import picture
from ..command_line import paretune


def seconds_of(per_pixel: float) -> Callable[[str, int | None], tuple[float, float]]:
    return lambda method, size: (1.0, per_pixel * (size or 224) ** 2 * (1 + METHODS.index(method) / 10))


@given(
    per_pixel=st.floats(1e-6, 1e-1),
    n_images=st.integers(50, 100_000),
    side=st.integers(0, 1000),
    n_slots=st.integers(1, 8),
    hours=st.none() | st.floats(0.05, 48),
)
def test_what_fits_holds_two_fair_starts_and_what_does_not_says_what_would(
    per_pixel: float, n_images: int, side: int, n_slots: int, hours: float | None
) -> None:
    sizes = image_sizes(224, 16, side)
    found = choose(METHODS, sizes, n_images, seconds_of(per_pixel), n_slots=n_slots, hours=hours)
    start, epoch = zip(*(seconds_of(per_pixel)(method, found.img_size) for method in found.methods), strict=True)
    needed = sum(start) + EXPECTED * found.epochs * sum(epoch)
    assert found.n_trials == pytest.approx(math.floor(found.hours * 3600 * n_slots / (needed / len(found.methods))), abs=1)
    assert found.fits == (found.n_trials >= 2 * n_start(len(found.methods)))
    assert found.hours == hours or (hours is None and found.hours in first_file.HOURS)
    assert found.methods == METHODS[: len(found.methods)]
    assert found.img_size in sizes
    assert found.epochs <= usual_epochs(n_images)
    if not found.fits:
        assert len(found.methods) == first_file.FEWEST_METHODS
        assert hours_needed(found) > found.hours


def test_nothing_is_given_up_where_there_is_time_and_epochs_first_where_there_is_none() -> None:
    sizes = image_sizes(224, 16, 500)
    plenty = choose(METHODS, sizes, 1000, seconds_of(1e-7), n_slots=2, hours=24)
    assert (plenty.methods, plenty.img_size, plenty.epochs) == (METHODS, 224, usual_epochs(1000))
    given = {choose(METHODS, sizes, 1000, seconds_of(1e-4), n_slots=2, hours=hours / 10): hours for hours in range(200, 0, -1)}
    order = [(len(one.methods), one.img_size, one.epochs) for one in given]
    assert list(dict.fromkeys(epochs for _, size, epochs in order if size == 224))[:2] == [96, 48]
    assert list(dict.fromkeys(size for n, size, _ in order if n == len(METHODS))) == [224, 192, 160, 128]
    assert [n for n, _, _ in order] == sorted((n for n, _, _ in order), reverse=True)


def test_images_get_no_more_pixels_than_they_have() -> None:
    assert image_sizes(518, 14, 64) == [56]
    assert image_sizes(224, 16, 2000)[0] == 224
    assert image_sizes(224, 16, 0)[0] == 224  # unknown
    assert image_sizes(224, 16, 10) == [64]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label in ("cat", 'dog\'s, "own"'):
        for n in range(20):
            (tmp_path / "my photos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "my photos" / label / f"{n}.png").write_bytes(picture(len(label) % 2, n, size=(40, 30)))
    return tmp_path / "my photos"


def test_a_folder_tells_layout_counts_and_size(photos: Path) -> None:
    found = look(photos)
    assert (found.kind, found.n_classes, found.side, found.draws_test) == ("imagefolder", 2, 30, True)
    assert found.n_images == {"train": 24, "validation": 8, "test": 8}
    assert found.smallest_class == 12


@pytest.fixture
def split_photos(photos: Path) -> Path:
    """Photos in train and val, of which val has one that train has, too."""
    root = photos.parent / "split photos"
    shutil.copytree(photos, root / "train")
    for label in ("cat", 'dog\'s, "own"'):
        (root / "val" / label).mkdir(parents=True)
        for n in range(20, 25):
            (root / "val" / label / f"{n}.png").write_bytes(picture(len(label) % 2, n, size=(40, 30)))
    shutil.copy(root / "train" / "cat" / "3.png", root / "val" / "cat" / "again.png")
    return root


def test_an_image_in_two_splits_is_counted(split_photos: Path) -> None:
    assert look(split_photos).problems == 1


def test_the_file_that_init_writes_is_accepted_and_another_one_is_not_overwritten(split_photos: Path, tmp_path: Path) -> None:
    words = ("init", str(split_photos), "--backbone", "vit_glyphs", "--hours", "0.5")
    done = paretune(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "split-photos.yaml written" in done.stdout
    file = loading.load(tmp_path / "split-photos.yaml")
    assert (file.study, file.backbone.name, file.budget.max_hours) == ("split-photos", "vit_glyphs", 0.5)
    assert file.data.model_dump().items() >= {"path": split_photos, "on_problem": "skip"}.items()
    text = (tmp_path / "split-photos.yaml").read_text()
    assert "1 of them are left out" in text
    assert Path(text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")).is_file()
    again = paretune(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert "split-photos.yaml exists" in again.stderr
    none = paretune("init", str(tmp_path / "nothing"), cwd=tmp_path)
    assert none.returncode == 2
    assert "does not exist" in none.stderr


def test_a_budget_that_ends_within_the_fair_start_is_noted() -> None:
    short = {
        "study": "s",
        "data": {"kind": "synthetic"},
        "methods": ["lora", "arc", "lily"],
        "budget": {"n_trials": 10, "epochs": 2},
    }
    note = str(note_on_budget(loading.check(short)))
    assert "the fair start takes 11 trials" in note
    assert note.endswith("so 10 leave some out; give 22 trials, or 1 method")
    assert note_on_budget(loading.check(short | {"budget": {"n_trials": 11, "epochs": 2}})) is None
    assert note_on_budget(loading.check(short | {"search": {"sampler": "random"}})) is None


def test_a_first_rung_that_compares_learning_rates_is_noted_with_a_grace_that_does_not() -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora", "arc"], "search": {"rungs": {"grace": 3, "factor": 2}}}
    by_trials = raw | {"budget": {"n_trials": 24, "epochs": 12}}
    n_images = 753  # 23 steps in an epoch, of which 27.6 are the warm-up
    note = str(note_on_grace(loading.check(by_trials), n_images))
    assert "after 3 of 12 epochs, is 41 steps after the warm-up" in note
    assert "from 0.001 to 0.01 by default" in note
    assert "give grace: 4" in note
    assert note_on_grace(loading.check(by_trials | {"search": {"rungs": {"grace": 4, "factor": 2}}}), n_images) is None
    assert note_on_grace(loading.check(by_trials | {"search": {}}), n_images) is None
    assert note_on_grace(loading.check(by_trials), 10 * n_images) is None
    assert note_on_grace(loading.check(by_trials), None) is None
    assert note_on_grace(loading.check(by_trials | {"space": {"optim.lr": 0.001}}), n_images) is None
    assert note_on_grace(loading.check(raw | {"budget": {"max_hours": 1, "epochs": 12}}), n_images) is None
    within = loading.check(raw | {"budget": {"n_trials": 24, "epochs": 30}})
    assert "after 3 of 30 epochs, is within the warm-up" in str(note_on_grace(within, n_images))
    few = str(note_on_grace(loading.check(by_trials), 32))
    assert "give more epochs, or rungs: null (all to the end)" in few
    assert note_on_grace(loading.load("emoji"), 1200) is note_on_grace(loading.load("digits"), 200) is None


def test_hours_that_end_within_the_fair_start_are_noted() -> None:
    raw = {"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora", "arc", "lily"]}
    file = loading.check(raw | {"budget": {"max_hours": 0.5, "epochs": 12}})
    note = str(note_on_hours(file, 6.5))
    assert "0.5 h hold about 6 trials, and the fair start takes 11" in note
    assert note.endswith("give 1.7 h")
    assert str(note_on_hours(file, 10.0)).endswith("give 1.1 h, or 1 method")
    assert note_on_hours(file, 11.0) is None
    assert note_on_hours(loading.check(raw | {"budget": {"max_hours": 0.5, "n_trials": 5, "epochs": 12}}), 1.0) is None


def test_any_folder_gives_a_study_name() -> None:
    assert study_name(Path("/data/Käfer 2024")) == "K-fer-2024"
    assert study_name(Path("/")) == "my-study"

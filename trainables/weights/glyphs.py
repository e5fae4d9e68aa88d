"""Glyphs: letters and symbols drawn with the fonts that matplotlib ships, the source domain of `vit_glyphs`.

An `Atlas` stores every glyph once, as two distance maps: to its outline and to its centre line. A sample is one sampling of those
maps through a random geometry (`render`): the outline gives print of any weight, the centre line gives the even stroke of a pen.
Only the font files are read, so anyone with matplotlib can reproduce the glyphs.

Digits are left out, in every script and in every disguise (superscript, circled, Roman, fractions): see `is_digit`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font, LoadFlags
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

CANVAS = 72  # side of an atlas map, in atlas pixels
BOX = 48  # longest side of a glyph inside it, in atlas pixels
BITMAP = 32  # side of the bitmap of a sample, in pixels: scikit-learn's digits were counted from bitmaps of this size
N_RIM = 32  # directions in which a glyph's extreme points are kept

# Faces with ordinary code points. The Computer Modern faces keep other glyphs under most of theirs: only their letters are read.
FACES = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif"),
    *("DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
    *("cmr10", "cmss10", "cmtt10", "cmmi10", "cmti10"),
)
HELD_OUT_FACES = ("DejaVuSerif-Italic", "DejaVuSansMono-Bold", "cmb10")  # never trained on: they measure the source accuracy
BLOCKS = (  # first and last code point of the drawn characters, by Unicode block
    (0x0021, 0x007E),  # Basic Latin
    (0x00A1, 0x02AF),  # Latin-1 to IPA extensions
    (0x0370, 0x058F),  # Greek, Cyrillic, Armenian
    (0x05D0, 0x05EA),  # Hebrew
    (0x0621, 0x064A),  # Arabic
    (0x07CA, 0x07EA),  # N'Ko
    (0x10A0, 0x10FF),  # Georgian
    (0x1401, 0x166C),  # Canadian syllabics
    (0x2100, 0x22FF),  # letterlike symbols, arrows, mathematical operators
    (0x2C60, 0x2C7F),  # Latin extended C
    (0x2D30, 0x2D67),  # Tifinagh
    (0xA4D0, 0xA4F7),  # Lisu
    (0x1D400, 0x1D7CB),  # mathematical script, fraktur, double-struck: more shapes of the same letters
)
_NUMBER_WORDS = re.compile(
    r"\b(DIGIT|NUMBER|NUMERAL|NUMERIC|FRACTION|CUBE|FOURTH|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|ZERO|HALF|THIRDS?|QUARTERS?)\b"
)


def is_digit(character: str) -> bool:
    """Return whether a character is, contains or is named after a digit or number of any script (tone two, Roman eight)."""
    plain = unicodedata.normalize("NFKD", character)
    return any(unicodedata.numeric(part, None) is not None for part in character + plain) or bool(
        _NUMBER_WORDS.search(unicodedata.name(character, ""))
    )


def letter(character: str) -> str | None:
    """Return the class of a character: itself, the letter it is a script or bold form of, or None if it is not drawn.

    Accented letters are excluded (at eight pixels they equal their base letter), as are punctuation, marks, digits and numbers.
    """
    base = unicodedata.normalize("NFKC", character)
    if len(base) != 1 or len(unicodedata.normalize("NFD", base)) != 1 or is_digit(character) or is_digit(base):
        return None
    return base if unicodedata.category(base) in {"Lu", "Ll", "Lo", "Sm", "Sc", "So"} else None


@dataclass(frozen=True)
class Atlas:
    """A store of every glyph, ready to be drawn in any geometry.

    Attributes:
        classes: Characters of each class; characters that look alike at eight pixels, once they fill their box, share a class.
        maps: Array [n_glyphs, 2, CANVAS, CANVAS] float16, atlas pixels: signed distance to the outline (negative inside), and
            distance to the centre line.
        rim: Array [n_glyphs, N_RIM, 2] float32: extreme points (x, y) of the glyph, in units of half the box.
        labels: Array [n_glyphs] int64: index into `classes`.
        held_out: Array [n_glyphs] bool: true for a glyph of a face in `HELD_OUT_FACES`.
    """

    classes: tuple[str, ...]
    maps: Tensor
    rim: Tensor
    labels: Tensor
    held_out: Tensor

    def faces(self, held_out: bool) -> tuple[Tensor, Tensor]:
        """Return the glyphs of each class: (table [n_classes, most] of glyph indices, n [n_classes]); -1 pads rows."""
        rows = [((self.labels == label) & (self.held_out == held_out)).nonzero()[:, 0] for label in range(len(self.classes))]
        n = torch.tensor([len(row) for row in rows])
        table = torch.full((len(rows), int(n.max())), -1)
        for line, row in zip(table, rows, strict=True):
            line[: len(row)] = row
        return table, n


def atlas(characters: Iterable[str] | None = None, faces: Iterable[str] = (*FACES, *HELD_OUT_FACES)) -> Atlas:
    """Draw every glyph once (about half a minute for all of them).

    Args:
        characters: Classes to draw, e.g. "ABC"; None for all of `BLOCKS`.
        faces: Names of matplotlib's font files without `.ttf`.
    """
    wanted = None if characters is None else set(characters)
    drawn: list[tuple[str, str, NDArray[np.bool_]]] = []  # (class, face, ink)
    for face in faces:
        for base, ink in _glyphs(face):
            if wanted is None or base in wanted:
                drawn.append((base, face, ink))
    if not drawn:
        raise ValueError(f"an atlas needs at least one glyph, found none of {characters!r} in {tuple(faces)}; name other faces")
    inks = np.stack([ink for _, _, ink in drawn])
    kin = _lookalikes([base for base, _, _ in drawn], inks)
    # a class that appears only in a held-out face could never be learned
    known = {kin[base] for base, face, _ in drawn if face not in HELD_OUT_FACES}
    keep = [index for index, (base, _, _) in enumerate(drawn) if kin[base] in known]
    order = sorted(known)
    classes = tuple("".join(sorted({base for base in kin if kin[base] == head})) for head in order)
    inks = inks[keep]
    return Atlas(
        classes=classes,
        maps=torch.from_numpy(np.stack([_outline(inks), _distance(_centre_lines(inks))], axis=1).astype(np.float16)),
        rim=torch.from_numpy(np.stack([_rim(ink) for ink in inks])),
        labels=torch.tensor([order.index(kin[drawn[index][0]]) for index in keep]),
        held_out=torch.tensor([drawn[index][1] in HELD_OUT_FACES for index in keep]),
    )


def _glyphs(face: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield (class, ink [CANVAS, CANVAS]) of every glyph of a face that is drawn, present and not blank."""
    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"))
    font.set_size(96.0, 72.0)
    for code, index in sorted(font.get_charmap().items()):
        base = letter(chr(code)) if any(first <= code <= last for first, last in BLOCKS) else None
        latin = base is not None and base.isascii() and base.isalpha()
        if base is None or index == 0 or (face.startswith("cm") and not latin):
            continue
        font.clear()
        font.set_text(chr(code), flags=LoadFlags.NO_HINTING)
        font.draw_glyphs_to_bitmap()
        grey = np.asarray(font.get_image())
        rows, columns = np.nonzero(grey > 127)
        if len(rows) < 16:
            continue
        grey = grey[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        if min(grey.shape) * 8 < max(grey.shape):  # a bare bar is unrecognisable once it fills its box
            continue
        scale = BOX / max(grey.shape)
        height, width = (max(2, round(side * scale)) for side in grey.shape)
        small = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
        ink = np.zeros((CANVAS, CANVAS), dtype=np.bool_)
        top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
        ink[top : top + height, left : left + width] = small > 100
        yield base, ink


def _lookalikes(bases: list[str], inks: NDArray[np.bool_]) -> dict[str, str]:
    """Return, for each class, the first class that looks like it at eight pixels, comparing the first drawing of each.

    Two classes look alike if the cosine between their 8 x 8 images (share of ink in each square) is above 0.9.
    """
    first: dict[str, NDArray[np.bool_]] = {}
    for base, ink in zip(bases, inks, strict=True):
        first.setdefault(base, ink)
    names = sorted(first)
    rim = (CANVAS - BOX) // 2
    boxes = np.stack([first[name][rim:-rim, rim:-rim] for name in names]).astype(np.float32)
    counts = boxes.reshape(len(names), 8, BOX // 8, 8, BOX // 8).sum(axis=(2, 4)).reshape(len(names), 64)
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    alike = counts @ counts.T > 0.9
    np.fill_diagonal(alike, True)
    kin = {name: name for name in names}
    for row, name in enumerate(names):
        kin[name] = kin[names[int(np.argmax(alike[row, : row + 1]))]]  # the first that looks alike, itself at the latest
    return kin


def _outline(inks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the signed distance to the outline, [n, CANVAS, CANVAS], negative inside."""
    return np.stack([distance_transform_edt(~ink) - distance_transform_edt(ink) for ink in inks])


def _distance(inks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance to the nearest ink, [n, CANVAS, CANVAS]."""
    return np.stack([distance_transform_edt(~ink) for ink in inks])


def _centre_lines(inks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin every glyph to lines one pixel wide (Zhang and Suen, Communications of the ACM 27(3), 1984), all glyphs at once."""
    ink = inks.copy()
    alive = np.arange(len(ink))  # glyphs that still change
    while len(alive):
        part = ink[alive]
        before = part.sum(axis=(1, 2))
        for phase in (0, 1):
            around = np.pad(part, ((0, 0), (1, 1), (1, 1)))
            # p2 ... p9: the neighbours clockwise, beginning above
            north, east, south, west = around[:, :-2, 1:-1], around[:, 1:-1, 2:], around[:, 2:, 1:-1], around[:, 1:-1, :-2]
            ring = [north, around[:, :-2, 2:], east, around[:, 2:, 2:], south, around[:, 2:, :-2], west, around[:, :-2, :-2]]
            n_ink = np.zeros(part.shape, dtype=np.int8)
            n_rises = np.zeros(part.shape, dtype=np.int8)
            for here, after in zip(ring, [*ring[1:], ring[0]], strict=True):
                n_ink += here
                n_rises += ~here & after
            if phase == 0:
                open_side = ~(north & east & south) & ~(east & south & west)
            else:
                open_side = ~(north & east & west) & ~(north & south & west)
            part &= ~((n_ink >= 2) & (n_ink <= 6) & (n_rises == 1) & open_side)
        ink[alive] = part
        alive = alive[part.sum(axis=(1, 2)) < before]
    return ink


def _rim(ink: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the glyph's farthest point in each of N_RIM directions, [N_RIM, 2], in units of half the box."""
    rows, columns = np.nonzero(ink)
    points = (np.stack([columns, rows], axis=1) - (CANVAS - 1) / 2) / (BOX / 2)
    angles = np.linspace(0, 2 * np.pi, N_RIM, endpoint=False)
    far = points @ np.stack([np.cos(angles), np.sin(angles)])  # [n_points, N_RIM]
    extremes: NDArray[np.float32] = points[far.argmax(axis=0)].astype(np.float32)
    return extremes


@dataclass(frozen=True)
class Style:
    """The variation of the samples. A strength is the standard deviation of a normal, or the end of a uniform range.

    Attributes:
        rotation: Rotation in radians.
        shear: Shear of x by y.
        stretch: Mean and deviation of the log of width over height, relative to the font (handwriting is narrow).
        warp: Elastic displacement, in units of half the box.
        pen: Share of samples drawn along the centre line; the others are print.
        stroke: Narrowest and widest pen, in pixels of the 32-pixel bitmap.
        weight: Largest gain of print on each side, same unit.
        fill: Smallest share of the box that the longer side fills.
        resolutions: Sides, in pixels, to which the bitmap's pixels are counted, one drawn for each eighth of a batch.
        blur: Largest blur: share of the bitmap that is replaced by its mean over 5 x 5 pixels (a tent).
    """

    rotation: float = 0.15
    shear: float = 0.25
    stretch: tuple[float, float] = (-0.35, 0.35)
    warp: float = 0.12
    pen: float = 0.7
    stroke: tuple[float, float] = (2.5, 7.0)
    weight: float = 2.0
    fill: float = 0.85
    resolutions: tuple[int, ...] = (8, 8, 8, 8, 8, 8, 8, 7, 10, 16)
    blur: float = 0.6


STYLE = Style()


def render(atlas: Atlas, glyphs: Tensor, generator: torch.Generator, size: int = 16, style: Style = STYLE) -> Tensor:
    """Draw glyphs, each in a random geometry, stroke and resolution.

    Args:
        atlas: Atlas of the glyphs.
        glyphs: Indices into the atlas, [batch].
        generator: CPU generator, the only source of randomness.
        size: Side of the images, in pixels.
        style: Variation of the samples.

    Returns:
        [batch, 1, size, size] float32 in 0..1 (ink is 1), quantised to 17 grey levels before the last (bicubic) resize, like a
        count of the on-pixels in 4 x 4 blocks.
    """
    batch = len(glyphs)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    # 1. geometry: glyph to image, then scaled so that the glyph fills the box
    angle, shear = style.rotation * normal(batch), style.shear * normal(batch)
    stretch = torch.exp((style.stretch[0] + style.stretch[1] * normal(batch)) / 2)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    slant = torch.stack([torch.stack([stretch, shear * stretch], 1), torch.stack([0 * stretch, 1 / stretch], 1)], 1)
    forward = turn @ slant  # [batch, 2, 2]
    rim = atlas.rim[glyphs] @ forward.mT  # [batch, N_RIM, 2]
    low, high = rim.amin(1), rim.amax(1)
    fill = uniform(style.fill, 1.0, batch)
    scale = 2 * fill / (high - low).amax(1)  # the image spans -1..1
    play = (1 - scale[:, None] * (high - low) / 2).clamp(min=0) * uniform(-1, 1, batch, 2) * 0.5
    shift = play - scale[:, None] * (high + low) / 2
    inverse = torch.linalg.inv(forward * scale[:, None, None])

    # 2. elastic warp: a smooth displacement of the image's points
    line = (torch.arange(BITMAP) + 0.5) / BITMAP * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)  # [32, 32, 2] as (x, y)
    strength = style.warp * uniform(0, 1.5, batch, 1, 1, 1)
    coarse = functional.interpolate(normal(batch, 2, 4, 4) * strength, size=BITMAP, mode="bicubic", align_corners=True)
    points = grid + coarse.permute(0, 2, 3, 1) - shift[:, None, None]
    points = (points.reshape(batch, -1, 2) @ inverse.mT).reshape(batch, BITMAP, BITMAP, 2) * (BOX / CANVAS)
    maps = atlas.maps[glyphs].float()  # [batch, 2, CANVAS, CANVAS]
    distance = functional.grid_sample(maps, points, padding_mode="border", align_corners=False)

    # 3. stroke: distances in bitmap pixels, thresholded; the pen's pressure varies along the way
    pixels = (BITMAP / BOX * scale)[:, None, None, None]
    distance = distance * pixels
    pressure = functional.interpolate(normal(batch, 1, 3, 3), size=BITMAP, mode="bilinear", align_corners=True)
    pressure = torch.exp(0.15 * pressure)
    pen = (uniform(*style.stroke, batch, 1, 1, 1) / 2) * pressure - distance[:, 1:]
    printed = uniform(-0.5, style.weight, batch, 1, 1, 1) * pressure - distance[:, :1]
    with_pen = (torch.rand(batch, 1, 1, 1, generator=generator) < style.pen).float()
    ink = (with_pen * pen + (1 - with_pen) * printed + 0.5).clamp(0, 1)  # one pixel of anti-aliasing
    bitmap = (ink > 0.5).float()

    # 4. blur and resolution
    blurred = functional.avg_pool2d(functional.avg_pool2d(ink, 3, 1, 1), 3, 1, 1)
    amount = (style.blur * uniform(-1, 1, batch, 1, 1, 1)).clamp(min=0)
    bitmap = bitmap + amount * (blurred - bitmap)
    images = torch.empty(batch, 1, size, size)
    part_size = -(-batch // 8)
    for start in range(0, batch, part_size):
        part = slice(start, start + part_size)
        side = style.resolutions[int(torch.randint(len(style.resolutions), (), generator=generator))]
        counted = functional.interpolate(bitmap[part], size=side, mode="area")
        counted = (counted * 16).round() / 16
        images[part] = functional.interpolate(counted, size=size, mode="bicubic", antialias=True)
    return images.clamp(0, 1)

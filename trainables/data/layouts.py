"""The layouts of image data sets on a disk, by the name of their `data.kind`.

imagefolder   PATH/train/CLASS/IMAGE, PATH/val/CLASS/IMAGE, PATH/test/CLASS/IMAGE; or PATH/CLASS/IMAGE, split here
vtab          PATH/train800.txt, val200.txt, train800val200.txt, test.txt: lines "images/1.jpg 3" (VTAB-1k as the papers use it)
fgvc          PATH/train.json, val.json, test.json: {"image": label} (the FGVC splits of VPT, arXiv:2203.12119)
parquet       files whose names or folders tell their split, or one FILE, split here: a column of encoded images (or structs of
              `bytes` and `path`), and one of labels (Hugging Face's layout)
masks, voc, ade20k    images with masks, see `trainables.data.mask_layouts`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from trainables.data import first_rules
from trainables.data.image_folder import image_folder
from trainables.data.image_lists import fgvc, vtab
from trainables.data.listing import Draft, Listing, finish
from trainables.data.mask_layouts import ade20k, masks, voc
from trainables.data.parquet_tables import parquet
from trainables.protocol import DATA_RULES

Layout = Callable[[Path, Mapping[str, Any]], Draft]
WITH_MASKS: Final[dict[str, Layout]] = {"masks": masks, "voc": voc, "ade20k": ade20k}
LAYOUTS: Final[dict[str, Layout]] = {
    "imagefolder": image_folder,
    "vtab": vtab,
    "fgvc": fgvc,
    "parquet": parquet,
    **WITH_MASKS,
}
_FIRST: Final[dict[str, Layout]] = {"imagefolder": first_rules.image_folder, "parquet": first_rules.parquet}


def listing(data: Mapping[str, Any]) -> Listing:
    """List the data set at `data["path"]`.

    Args:
        data: Mapping with `kind`, `path`, and the keys of the kind: `val_fraction`, `test_fraction` and `seed` of the splits that
            are created here, `min_images` of a class among the training images, `n_classes` (vtab), `image_column` and
            `label_column` (parquet); and `rules`, the version of the rules, if it is not the newest.

    Raises:
        ValueError: If there is no data set of this layout; the message says what was expected.
    """
    root = Path(data["path"]).expanduser()
    if not root.exists():
        raise ValueError(f"data.path: {root} does not exist")
    kind = data["kind"]
    layout = LAYOUTS[kind] if data.get("rules", DATA_RULES) == DATA_RULES else _FIRST.get(kind, LAYOUTS[kind])
    draft = layout(root, data)
    if "train" not in draft.splits:
        raise ValueError(f"data.path: {root} has no training images of the layout {kind}; see `docs/data.md` for this layout")
    return finish(draft, data)

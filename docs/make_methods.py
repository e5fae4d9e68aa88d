"""Writes docs/methods.md from the code itself: docstrings, spaces, and counts on ViT-B/16. A test keeps the page current.

python docs/make_methods.py
"""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

import spaces
from trainables import measure
from trainables.adapters import METHODS, adapt, merge, method_of

COLUMNS = 100
PAGE = Path(__file__).parent / "methods.md"
ANCHORS = {
    "head_only": "anchor of every study",
    "layer_norm": "anchor, on request; high: released code and counts",
    "bitfit": "anchor, on request",
    "full": "anchor, on request",
}
SHARED = {  # tensors that a block does not have for itself
    "head_only": "nothing is adapted",
    "lora": "nothing",
    "serial_lora": "one pair serves q, k and v of a block",
    "arc": "the basis U, by all blocks",
    "lily": "down-projections by neighbouring blocks, experts by all",
    "householder": "nothing",
    "snell": "nothing",
    "clora": "the base spaces, by all blocks",
    "fact": "both factors, by all weights",
    "adapter": "nothing",
    "adaptformer": "nothing",
    "randlora": "the frozen random bases, by all weights",
    "heart_lora": "which heads are active, by all blocks (global)",
    "ssf": "nothing",
    "layer_norm": "nothing is added",
    "bitfit": "nothing is added",
    "full": "nothing is added",
    "difffit": "nothing",
    "rep_adapter": "one adapter serves q, k and v of a block",
    "adapter_plus": "nothing",
    "convpass": "nothing",
    "vpt": "nothing (deep); the prompts, carried through all blocks (shallow)",
}
SOURCE = {  # how sure each is
    "lora": "high: released code of the VTAB-1k papers",
    "serial_lora": "equation and count high (authors' figures); initial values, scale and recipe weak",
    "arc": "high: released code",
    "lily": "high: released code",
    "householder": "equation and counts high (full text); initial values and dropout not stated",
    "snell": "high: full text and released code",
    "clora": "weak: abstract, and second-hand notes of the body; no code",
    "fact": "high: released code",
    "adapter": "high: released code",
    "adaptformer": "high: released code",
    "randlora": "high: released code",
    "heart_lora": "weak: abstract and appendix; no code",
    "ssf": "high: released code",
    "difffit": "high: released code and counts of the study that it follows",
    "rep_adapter": "high: released code",
    "adapter_plus": "high: released code and configurations",
    "convpass": "high: released code",
    "vpt": "high: released code",
}

OPENING = """# The methods, side by side

*Made by `python docs/make_methods.py` from the code; do not edit this page.*

`paretune methods` prints the knobs, and
`paretune count --method NAME --backbone TIMM_NAME --set knob=value` the exact size on any supported
backbone. Defaults are the papers'. Counts are of the adapter alone, on ViT-B/16; the head adds 769
parameters per class. Every method also has
`layers` (all, first-K or last-K blocks), unless it says otherwise. The tuners of Hugging Face PEFT
are methods too: [peft.md](peft.md).

| method | shared | parameters, ViT-B/16, defaults | merges into the backbone | how sure its source is |
|---|---|---:|---|---|
"""

FIGURES = """
## Published figures that are not reproduced, with the arithmetic

Columns named "Params" in these papers do not count the same parameters. Some rows include the
classification head (38,045 on average over the 19 tasks of VTAB-1k on ViT-B/16, 180,407 over the
five of FGVC), some do not, and some are means over the configurations chosen per task. Our counts
and the printed ones:

| method and setting | ours, head apart | with the average head | printed | |
|---|---:|---:|---:|---|
| LoRA r=8 on q, v (or fused qkv) | 294,912 | | 0.29 M | agrees, without head |
| ARC r=50, VTAB-1k, ViT-B/16 | 96,432 | 0.134 M | 0.13 M | agrees, with head |
| ARC r=50, FGVC | 96,432 | 0.277 M | 0.25 M | does not; r=32 would give 0.249 M |
| ARC r=50, ViT-L | 153,952 | 0.205 M | 0.18 M | does not; one bias a block instead of two would give 0.180 M |
| ARC r=50, ViT-H | 213,120 | 0.276 M | 0.22 M | does not |
| HTA D'=1 on q, k, v, o | 184,320 | 0.222 M | 0.22 M | agrees, with head |
| HTA D'=0, 2, 4 | 110,592, 258,048, 405,504 | 0.149, 0.296, 0.444 M | 0.15, 0.30, 0.44 M | agree, with head |
| HTA on q, v and the MLP | 294,912 | | 0.28 M | does not; 0.276 M if the MLP had no diagonals |
| Adapter r=8 | 156,768 | | 0.16 M | agrees, without head |
| FacT-TK, r=32 | 86,528 | | 0.07 M | the printed figure is the mean over released ranks: 68,985 |
| SSF, ViT-B/16 | 205,824 | 0.244 M | 0.24 M (VTAB-1k) | agrees, with head |
| LayerNorm tuning, ViT-B/16 | 38,400 | | 38,400 | agrees, without head; the final norm is in it |
| LayerNorm tuning, CLIP ViT-B/16 | 39,936 | | 39,936 | agrees, without head; so is CLIP's norm before the blocks |
| DiffFit, ViT-B/16 | 140,544 | | 140,544 | agrees with the released results, without head |
| RepAdapter r=8 | 239,808 | | 0.22 M | the printed figure has no biases: 221,184 |
| Convpass, r=8 | 327,552 | | 0.33 M | agrees, without head |
| VPT shallow, p = 100 | 76,800 | | 0.08 M | agrees, without head; p is chosen for each data set, and 100 is the mean of Mai et al. |
| VPT deep, p = 61 | 562,176 | | 0.56 M | agrees, without head, at this mean of p; the paper's p of each task were not looked up |
| SNELL | 18 d r L | | none printed | the paper reports no counts |
| Lily, VTAB-1k | 6,192 r n | | not found | r and n per task were not released |
| Heart-LoRA | 294,912 - 12,288 n | | not found | n of 12 heads off, r=8 |
| CLoRA | see its table below | | not found | |
"""

RECIPES = """
## Recipes of the released scripts

The defaults of `optim` and `recipe` are shared by all methods. The released scripts differ from
them, and from each other, in what a study file cannot set and in what a comparison with a printed
number must set. Read in the scripts for images:

| scripts | decayed by AdamW | head starts | precision | otherwise |
|---|---|---|---|---|
| ours | matrices; no bias, no vector | truncated normal 0.02, bias zero | `precision: auto`; the head in float32 | batch 32 |
| PETL-ViT (FacT, LoRA and AdaptFormer with 1-bit weights), Lily | every trained tensor, biases too | as PyTorch's linear | float32 | batch 64 |
| NOAH (Adapter-8, LoRA-8) | matrices; no bias, no vector | as ours | float32 | batch 64 |
| SNELL | matrices; no bias, no vector | as ours | float32 | batch 8 to 64 |
| ARC | every trained tensor; the default is 0 | zero on a ViT | float32 | lr 0.01, batch 32, gradient clipped at 1 |
| AdaptFormer | nothing | truncated normal 0.01, behind a batch norm without scale and shift | float16 by autocast | SGD, momentum 0.9, lr 0.1 per 256 images |
| RandLoRA, CLIP | every trained tensor, 0.1 | CLIP's text encoder | bfloat16 by autocast | batch 128, gradient clipped at 1 |

`precision: auto` chooses bfloat16 where a probe finds it faster ([cost.md](cost.md)). For a
comparison with a number of a float32 script set `recipe: {precision: float32}`. A decay of 1e-4
at a learning rate of 1e-3 shrinks a bias by at most 1e-7 of its size per step.
"""

BEYOND = {  # knob -> (values that a paper used and the packaged range lacks, where)
    "lora.scale": ((0.01, 100.0), "PETL-ViT's LoRA with 1-bit weights: 11 of its 38 configurations"),
    "adaptformer.rank": ((1,), "PETL-ViT's AdaptFormer with 1-bit weights: 19 of its 38 configurations"),
    "adaptformer.scale": ((100.0,), "PETL-ViT's AdaptFormer with 1-bit weights: 2 of its 38 configurations"),
    "lily.scale": ((0.01,), "the author's guidance"),
    "heart_lora.scale": ((0.01,), "its LoRA baseline"),
    "arc.dropout": ((0.5,), "every task on Swin"),
    "snell.sparsity": ((0.08, 0.15, 0.37, 0.4, 0.74, 0.88, 0.995), "released scripts of SNELL-32, one task each"),
    "randlora.alpha": ((12.0,), "2 r at r = 6; sqrt(n) = 11.3 is the CLIP scripts' scale"),
    "optim.lr": ((0.05, 0.1, 0.2), "HTA's printed grid"),
    "optim.weight_decay": (
        (5e-5, 4e-4, 5e-3, 5e-2, 1e-1),
        "ARC on Swin 5e-5, 5e-3, 5e-2; SNELL-32 4e-4, 5e-2; RandLoRA's CLIP scripts 0.1",
    ),
    "optim.batch_size": ((8,), "SNELL-32: 3 of its 19 scripts"),
}

OUTSIDE = """
## Values of the papers outside the searched ranges

The file of a study holds the values that its `space` names. Every other range is that of the code, read
again whenever the study resumes. So a range here is not widened: it would change what an existing
study searches. `space` in a study file reaches every value below, for example
`space: {lora.scale: [0.01, 0.1, 1.0, 10.0, 100.0]}`, and `budget.epochs: 200` the epochs of 8 of
the 19 scripts of SNELL-32.

| knob | searched | a paper also used | where |
|---|---|---|---|
"""

BACKBONES = """
## Backbones

Every method meets every family in the laws of `tests/trainables/adapters/adapter_laws.py`, on a
small random model of each:

| family | in timm | while adapted | after a merge |
|---|---|---|---|
| ViT, DeiT, MAE, DINOv2 (also packed SwiGLU), CLIP, SigLIP | `VisionTransformer` | as it is; attention pools are not adapted | plain |
| BEiT, BEiTv2 | `Beit` | q_bias and v_bias are in `qkv.bias` | plain |
| EVA, fused | `Eva` | as BEiT | plain; with rotary embedding or norm on k a bias on k stays in `qkv.bias` |
| EVA-02 | `Eva` | q, k, v joined in `qkv`, fc1_g and fc1_x in `fc1` | split again; a bias on k becomes `k_proj.bias` |
| Swin | `SwinTransformer` | as it is | plain |

A bias on k comes from ARC, RepAdapter and serial CLoRA only. It is left out where it cannot change a softmax
(no rotary embedding, no norm on k). In a Swin a method shares tensors per stage (ARC's U, Lily's
experts, FacT's factors, CLoRA's spaces, the active heads of Heart-LoRA), and `layers` counts blocks
over the whole network. Lily's gate of k and v is, in a Swin, of the window. BitFit, LayerNorm
tuning, full fine-tuning and head-only train timm's own parameters and join nothing. BitFit trains
q_bias and v_bias, not tables of relative positions. LayerNorm tuning refuses a backbone that has
RMS norms only. DiffFit trains timm's own parameters, joins nothing, and scales two linears of a block.

Refused by name: Swin v2 (attention reads `qkv.weight` itself), distilled DeiT (two heads), EVA
blocks with norms behind, with `AttentionRope` or a gate, and every model that is not in the table:
a model that reads a linear's weight itself would stay unadapted.
"""


def merges(method: str) -> str:
    """Whether a small model that the method has adapted can be merged, or the reason that it gives."""
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=96, depth=2, num_heads=12, num_classes=3)
    config = spaces.joint([method]).default(method)
    config |= {key: 8 for key in config if key.endswith(".rank")}
    adapt(model, method_of(config), generator=torch.Generator().manual_seed(0))
    try:
        merge(model)
    except ValueError as error:
        return "no: " + str(error).split("; ")[0].split(": ", 1)[-1]
    return "yes"


def page() -> str:
    """The whole page."""
    sizes = measure({"name": "vit_base_patch16_224", "weights": "random"}, {"kind": "none", "n_classes": 10})
    rows, sections = [], []
    for method, space in spaces.SPACES.items():
        count, _ = sizes.count(spaces.joint([method]).default(method))
        sure = SOURCE.get(method, ANCHORS.get(method, ""))
        rows.append(f"| [{method}](#{method}) | {SHARED[method]} | {count:,} | {merges(method)} | {sure} |")
        doc = str(importlib.import_module(METHODS[method].__module__).__doc__).strip()
        knobs = "".join(
            f"| `{k.key}` | {k.default} | {spaces.in_words(k.distribution)} | {k.meaning} | {k.unit or '-'} | {k.source} |\n"
            for k in space.knobs
        )
        header = "\n| knob | default | searched | meaning | unit | source |\n|---|---|---|---|---|---|\n"
        sections.append(f"\n## {method}\n\n```text\n{doc}\n```\n" + (header + knobs if knobs else "\nNo knobs of its own.\n"))
    return wrapped(OPENING + "\n".join(rows) + "\n" + FIGURES + RECIPES + OUTSIDE + outside() + BACKBONES + "".join(sections))


def outside() -> str:
    """Return the rows of `BEYOND`."""
    knobs = {knob.key: knob for space in spaces.SPACES.values() for knob in (*space.knobs, *spaces.SHARED)}
    return "".join(
        f"| `{key}` | {spaces.in_words(knobs[key].distribution)} | {', '.join(map(str, values))} | {where} |\n"
        for key, (values, where) in BEYOND.items()
    )


def wrapped(text: str) -> str:
    """Break long lines of prose, so that a diff of the page can be read; tables, lists, headings and formulas stay as they are."""
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        as_it_is = line == "" or line.startswith(("|", "#", " ", "-", "```"))
        if as_it_is or line.startswith("*"):
            paragraphs.append([])
        paragraphs[-1].append(line)
        if as_it_is:
            paragraphs.append([])
    lines: list[str] = []
    for paragraph in paragraphs:
        is_long = any(len(line) > COLUMNS and not line.startswith(("|", "#", " ", "-")) for line in paragraph)
        joined = " ".join(paragraph)
        lines += textwrap.wrap(joined, COLUMNS, break_long_words=False, break_on_hyphens=False) if is_long else paragraph
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())

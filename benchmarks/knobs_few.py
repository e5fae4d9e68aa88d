"""The knobs that move nothing on 200 images, where they should move something: `python benchmarks/knobs_few.py`.

`benchmarks/knobs.py` changes one knob at a time around the papers' defaults, with 20 images of a class. There a network hardly
overfits, so that what regularises has nothing to do, and values lie close together. Here each of these knobs is asked in a setting
where its mechanism acts, over values wider than its space, with four images of a class and so many epochs that they are known by
heart. Each seed draws images, initial values and order anew, the same for all values of a knob; accuracy is that on the packaged
digits' 800 validation images after the last epoch.

The difference between the best and the worst value is given with an interval: 95 % for all pairs of values together (Student's t
of the differences by seed, Bonferroni over the pairs), so that picking the largest of several differences is paid for.

What is trained is kept in results/knobs-few.jsonl, a line each; a second call goes on where the first stopped, and several may run
at once with other seeds. `python benchmarks/knobs.py --minutes 0` puts the table into results/knobs.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import t as student

import spaces
from trainables.data.digits import digits, digits_split
from trainables.workers.retrainer import Retrainer

PATH = Path(__file__).parent / "results" / "knobs-few.jsonl"
N_IMAGES, EPOCHS, BATCH, LR = 4, 100, 16, 3e-3
SURE = 0.95
DROPOUTS = (0.0, 0.1, 0.3, 0.5, 0.8)


@dataclass(frozen=True)
class Question:
    """A knob where it can matter.

    Attributes:
        knob: Its key.
        values: What it takes; some lie outside its space.
        setting: What else differs from the method's defaults.
        why: Why it can matter here.
    """

    knob: str
    values: tuple[Any, ...]
    setting: dict[str, Any] = field(default_factory=dict)
    why: str = "40 images are learnt by heart"

    def configs(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """(value, configuration) of each value."""
        method = self.knob.partition(".")[0]
        centre = spaces.joint([method]).default(method) | {"optim.lr": LR, "optim.batch_size": BATCH} | self.setting
        return ((value, centre | {self.knob: value}) for value in self.values)


QUESTIONS = (
    Question("serial_lora.dropout", DROPOUTS, {"serial_lora.rank": 64}),
    Question("arc.dropout", DROPOUTS, {"arc.rank": 50, "optim.lr": 1e-2}),
    Question("lily.temperature", (0.01, 0.1, 1.0, 10.0, 100.0), {}, "four experts; from one expert for an image to their mean"),
    Question(
        "householder.normalisation",
        ("householder", "literal"),
        {"householder.extra_rank": 0, "optim.lr": 2e-2},
        "nothing beside the diagonal, and steps so long that the vectors' lengths leave one",
    ),
    Question("householder.dropout", DROPOUTS, {"householder.extra_rank": 8, "optim.lr": 1e-2}),
    Question("snell.dropout", DROPOUTS, {"snell.sparsity": 0.0, "optim.lr": 1e-2}, "no entry is gated away"),
    Question("clora.sade_weight", (0.0, 1e-2, 1.0, 1e2, 1e4), {"clora.n_spaces": 8}, "28 pairs of spaces, over six decades"),
    Question("fact.dropout", DROPOUTS, {"optim.lr": 1e-2}),
    Question(
        "adapter.activation",
        ("gelu", "relu"),
        {"adapter.rank": 64, "adapter.position": "attn_ffn", "optim.lr": 1e-2},
        "two bottlenecks of full width in each block",
    ),
    Question("adapter.dropout", DROPOUTS, {"adapter.rank": 64, "optim.lr": 1e-2}),
    Question("adaptformer.dropout", DROPOUTS, {"adaptformer.scale": 1.0, "optim.lr": 1e-2}),
    Question(
        "heart_lora.criterion",
        ("abs", "signed"),
        {"heart_lora.active_head_ratio": 0.25, "heart_lora.level": "layer", "heart_lora.warmup_epochs": 50, "optim.lr": 1e-2},
        "three of four heads go, in each block by its own scores, when the loss has no slope left",
    ),
    Question(
        "heart_lora.warmup_epochs",
        (1, 5, 20, 50, 100),
        {"heart_lora.active_head_ratio": 0.25},
        "three of four heads go: after the first epoch, or with none left to mend it",
    ),
    Question("heart_lora.dropout", DROPOUTS, {"heart_lora.active_head_ratio": 1.0, "heart_lora.rank": 16, "optim.lr": 1e-2}),
)


def write_images(folder: Path, seed: int) -> None:
    """The images of a seed: `N_IMAGES` of each class of the training split, and the whole validation split to be tested on."""
    images, labels = digits()
    split, random = digits_split(), np.random.default_rng(seed)
    train = split["train"].numpy()
    few = [i for c in range(10) for i in random.choice(train[labels.numpy()[train] == c], N_IMAGES, replace=False)]
    for name, chosen in (("train", few), ("test", split["validation"].tolist())):
        for i in chosen:
            path = folder / name / str(int(labels[i])) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i, 0].numpy()).save(path)


def train(seeds: range, minutes: float) -> None:
    """Trains what is missing, for at most so many minutes."""
    done, begun = {(line["knob"], line["value"], line["seed"]) for line in lines()}, time.monotonic()
    for seed in seeds:
        todo = [(q, value, config) for q in QUESTIONS for value, config in q.configs() if (q.knob, value, seed) not in done]
        if not todo or time.monotonic() - begun > 60 * minutes:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder / "images", seed)
            data = {"kind": "imagefolder", "path": str(folder / "images"), "resize": "squash", "val_fraction": 0.25, "seed": seed}
            retrain = Retrainer({"name": "vit_glyphs"}, data, {"n_threads": 1})
            for n, (question, value, config) in enumerate(todo):
                if time.monotonic() - begun > 60 * minutes:
                    return
                try:
                    top1 = retrain(config, seed=seed, epochs=EPOCHS, folder=folder / str(n)).metrics["test/top1"]
                except FloatingPointError:  # diverged: what it knows then is chance
                    top1 = 0.1
                line = {"knob": question.knob, "value": value, "seed": seed, "top1": top1}
                with PATH.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def lines() -> list[dict[str, Any]]:
    return [json.loads(text) for text in PATH.read_text().splitlines()] if PATH.exists() else []


# -- the table ---------------------------------------------------------------------------------------------------------------------


def interval(differences: list[float], n_pairs: int) -> float:
    """Half the width of the interval of a mean difference that holds for `n_pairs` pairs together."""
    if len(differences) < 2:
        return math.inf
    quantile = float(student.ppf(1 - (1 - SURE) / (2 * n_pairs), len(differences) - 1))
    return quantile * statistics.stdev(differences) / math.sqrt(len(differences))


def report() -> str:
    """The Markdown section."""
    found: dict[str, dict[int, dict[Any, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines():
        found[line["knob"]][line["seed"]][line["value"]] = 100 * line["top1"]
    text = [
        "## Where they should matter",
        "",
        f"The knobs that move nothing above, each in a setting where its mechanism acts: {N_IMAGES} images of a class, {EPOCHS}",
        "epochs, values beyond the space. Each seed draws images, initial values and order anew. ± is the half width of an",
        "interval that holds at 95 % for all pairs of a knob's values together; a knob moves accuracy if some pair's leaves out",
        "zero. Of twenty knobs that do nothing one passes by chance. The runs went on after a look at six seeds, with which",
        "`householder.dropout` and `adapter.activation` passed and nothing else: what passes narrowly is not settled. That each",
        "knob reaches the model at all is a test (tests/trainables/adapters/test_wired_knobs.py).",
        "Made by `python benchmarks/knobs_few.py`.",
        "",
        "| knob | why here | values: accuracy | seeds | best - worst | moves accuracy |",
        "|---|---|---|---:|---:|---|",
    ]
    for question in QUESTIONS:
        whole = [of for of in found[question.knob].values() if len(of) == len(question.values)]
        if not whole:
            continue
        means = {value: statistics.mean(of[value] for of in whole) for value in question.values}
        pairs = list(combinations(sorted(question.values, key=lambda value: -means[value]), 2))
        # The pair of best and worst has the largest difference, but one of lesser spread may be the surer one.
        widths = {pair: interval([of[pair[0]] - of[pair[1]] for of in whole], len(pairs)) for pair in pairs}
        gaps = {(a, b): means[a] - means[b] for a, b in pairs}
        widest = max(pairs, key=lambda pair: gaps[pair])
        sure = [pair for pair in pairs if gaps[pair] > widths[pair]]
        verdict = "yes" if widest in sure else f"yes: {sure[0][0]} against {sure[0][1]}" if sure else "not beyond noise"
        setting = ", ".join(f"{key} {value}" for key, value in question.setting.items())
        shown = ", ".join(f"{value}: {mean:.2f}" for value, mean in means.items())
        text.append(
            f"| `{question.knob}` | {question.why}{f' ({setting})' if setting else ''} | {shown} | {len(whole)} | "
            f"{gaps[widest]:.2f} ± {widths[widest]:.2f} | {verdict} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 12), metavar=("FIRST", "END"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    asked = parser.parse_args()
    train(range(*asked.seeds), asked.minutes)
    print(report())


if __name__ == "__main__":
    main()

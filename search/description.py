"""The description of a study's run: what someone reads first who opens the study in MLflow. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search import report
from search.front import hypervolume
from search.ledger import StudyRecord
from search.saved import StudyState
from search.shown import MAX_TAG_CHARACTERS
from search.trial import State, Trial


def describe(study: StudyRecord, trials: Sequence[Trial], state: StudyState, *, links: Mapping[int, str]) -> str:
    """The question, where its search stands, and the front.

    Args:
        study: The study.
        trials: All its trials.
        state: Where it stands.
        links: Trial number to the address of its run.
    """
    file, facts, budget = study.file, study.facts, study.budget
    backbone, data, reference_point = file["backbone"], file["data"], report.reference(study)
    counts = {s: sum(t.state is s for t in trials) for s in State}
    standing = ", ".join(f"{n} {s.value.lower()}" for s, n in counts.items() if n)
    weights = f", weights `{backbone['weights']}`" if backbone.get("weights") else ""
    n_trials, largest = budget["n_trials"], int(reference_point[1])
    lines = [
        f"**Which adapter of `{backbone['name']}`, at which size, is worth training on `{data['kind']}`?**",
        "",
        f"- **Backbone** `{backbone['name']}`{weights}, {facts['backbone_params']:,} frozen parameters",
        f"- **Data** `{data['kind']}`, {facts['n_classes']} classes",
        f"- **Methods** {', '.join(file['methods'])}, and head_only as the anchor",
        f"- **Budget** {n_trials} trials of {budget['epochs']} epochs, adapters up to {largest:,} parameters",
        f"- **State** {state.value.lower()}: {len(trials)} of {n_trials} trials started ({standing or 'none yet'})",
        "",
        f"### Front (hypervolume {hypervolume(trials, reference_point):.4f})",
        "\n",
    ]
    head = "\n".join(lines)
    table = report.front_markdown(trials, links=links).splitlines()
    room = MAX_TAG_CHARACTERS - len(head) - 100
    kept: list[str] = []
    for line in table:
        room -= len(line) + 1
        if room < 0:
            kept.append("\nThe whole front is in `front.parquet`.")
            break
        kept.append(line)
    return head + "\n".join(kept if len(table) > 2 else ["No trial is complete yet."])

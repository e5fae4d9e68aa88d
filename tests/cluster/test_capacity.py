"""What is asked of an autoscaler, judged by the functions with which Ray's own decides, on the files that we ship."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.capacity import bundle_of

FILES = Path(__file__).parents[2] / "cluster"
QUARTER = {"cpus_per_trial": 2, "gpus_per_trial": 0.25, "memory_per_trial": 4 * 2**30}


def test_a_bundle_names_what_is_taken_and_the_nodes_that_have_it() -> None:
    assert bundle_of(cpus_per_trial=1, gpus_per_trial=0.0) == ({"CPU": 1.0}, {})
    assert bundle_of(**QUARTER, accelerator_type="L4") == (
        {"CPU": 2.0, "GPU": 0.25, "memory": 4.0 * 2**30},
        {"bundle_label_selector": [{"ray.io/accelerator-type": "L4"}]},
    )


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml", "ray-cluster.yaml"])
def test_rays_autoscaler_starts_two_of_our_nodes_for_eight_quarters_of_a_gpu(name: str) -> None:
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    types, head = node_types(name)
    scorer = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    bundle, _ = bundle_of(**QUARTER)
    assert get_nodes_for(types, {head: 1}, head, 8, [bundle] * 8, scorer) == ({"gpu": 2}, [])
    larger, _ = bundle_of(**QUARTER | {"cpus_per_trial": 17})
    assert get_nodes_for(types, {head: 1}, head, 8, [larger], scorer) == ({}, [larger])  # and none for what fits on none


def test_the_autoscaler_of_machines_knows_the_kind_of_their_gpu_before_one_is_there() -> None:
    types, _ = node_types("ray-cluster.yaml")
    _, where = bundle_of(**QUARTER, accelerator_type="L4")
    assert where["bundle_label_selector"] == [types["gpu"]["labels"]]


def node_types(name: str) -> tuple[dict[str, Any], str]:
    """The kinds of nodes that an autoscaler would be told of, and which is the head's."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    file = yaml.safe_load((FILES / name).read_text())
    if "available_node_types" in file:
        types = file["available_node_types"]
        types["gpu"]["resources"]["memory"] = int(0.7 * 64 * 2**30)  # as Ray asks AWS for a g6.4xlarge
        return types, file["head_node_type"]
    spec = file["spec"].get("rayClusterSpec", file["spec"])
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "paretune", "namespace": "default"}, "spec": spec})
    return config["available_node_types"], config["head_node_type"]

"""The embedded cluster: loopback, as many slots as fit, and a clear word when none does."""

import pytest

pytestmark = pytest.mark.usefixtures("embedded_ray")


def test_as_many_slots_as_whole_trials_fit() -> None:
    from cluster.connect import slots

    assert slots(cpus_per_trial=1, gpus_per_trial=0) == 2
    assert slots(cpus_per_trial=2, gpus_per_trial=0) == 1


def test_a_trial_that_does_not_fit_is_refused_with_what_there_is() -> None:
    from cluster.connect import slots

    with pytest.raises(ValueError, match="asks for 3 CPUs, 0 GPUs of one node, the nodes have 2, 0 and"):
        slots(cpus_per_trial=3, gpus_per_trial=0)
    with pytest.raises(ValueError, match="ask for less"):
        slots(cpus_per_trial=1, gpus_per_trial=0.5)


def test_an_embedded_cluster_lives_on_loopback_without_a_dashboard() -> None:
    import psutil
    import ray

    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    assert not ray._private.worker.global_worker.node.address_info["webui_url"]
    other = [child for child in psutil.Process().children() if "start" in child.cmdline()]  # the head node of other tests
    not_ours = {process for head in other for process in [head, *head.children(recursive=True)]}
    ours = {psutil.Process(), *psutil.Process().children(recursive=True)} - not_ours
    listening = [
        connection.laddr.ip
        for process in ours
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_an_embedded_cluster_starts_no_server_that_one_machine_has_no_use_for() -> None:
    import psutil

    started = [" ".join(child.cmdline()) for child in psutil.Process().children() if "start" not in child.cmdline()]
    assert any("raylet" in command for command in started)
    assert not [command for command in started if "monitor.py" in command or "dashboard.py" in command]

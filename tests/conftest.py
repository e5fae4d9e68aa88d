"""What all tests share: an environment without telemetry and one embedded Ray for those that need it."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from . import quick
from .recorder_here import RecorderHere
from .s3 import Bucket, bucket
from .shared import ByFileAndServer, check_that_all_are_known

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # a test may import Ray before `cluster.connect.embedded` says so
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on all cores side by side; threads of several of them would only wait
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_AUTH_MODE"] = "disabled"  # one machine, loopback; Ray's default differs between versions
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("PARETUNE_STORAGE", None)
os.environ.pop("PARETUNE_METHODS", None)
os.environ["PARETUNE_CACHE"] = tempfile.mkdtemp(prefix="paretune-tests-")  # decoded images; not the user's own
atexit.register(shutil.rmtree, os.environ["PARETUNE_CACHE"], ignore_errors=True)

# A runner in the background may have been started with signals ignored, and its children inherit that; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes says something about the machine and its other users, nothing about a law.
settings.register_profile("paretune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paretune")


@pytest.fixture(scope="session", autouse=True)
def _recorded_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Searches in this process record in this process; `tests/search/tracking` takes this back, and `--quick` runs none."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.config.getoption("quick"):
            patch.setattr("search.workflows.run.RecorderProcess", RecorderHere)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what starts Ray, a server, a browser, or takes long")


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is imported and collected: what is made until then stays
    if config.getoption("quick"):
        quick.start_nothing()
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.setsid()  # Linux shares the cores among sessions: a recorder, at the lowest priority, competes with its own worker only


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
    check_that_all_are_known(items)
    n_tests = Counter(item.path for item in items)
    items.sort(key=lambda item: n_tests[item.path])  # a file of few tests holds long ones that wait, to begin with


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileAndServer:
    return ByFileAndServer(config, log)


def pytest_collection_finish() -> None:
    """Look through what a test has made for garbage, not each time through all libraries and tests, which stay."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries would complain at the end that their objects were never freed
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    """A real S3-compatible server with an empty bucket; the environment says how it is reached."""
    with bucket() as made:
        yield made


@pytest.fixture(scope="session")
def embedded_ray() -> Iterator[None]:
    """A real Ray cluster on two cores of this machine."""
    from cluster.connect import embedded

    with embedded(n_cpus=2):
        yield

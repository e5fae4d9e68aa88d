"""What `make quick` leaves out."""

import subprocess
import sys
from pathlib import Path


def test_a_quick_run_skips_what_starts_ray() -> None:
    command = [sys.executable, "-m", "pytest", "--quick", "tests/cluster/test_connect.py"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[0].startswith("ssss")

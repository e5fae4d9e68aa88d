"""What an installation takes where there is no GPU: what CUDA adds, whether torch does without it, and what pip chooses.

Three questions, each tried:

1. How large is an installation of Paretune, and how much of that are CUDA's libraries and Triton?
2. Which of them does torch's build for CUDA need on a machine without a GPU? The command searches a small study with a copy of
   torch and links to all other installed packages but those that are left out.
3. What does pip add to an environment that already holds a build of torch without CUDA? A stand-in wheel has that build's version
   (`2.15.0+cpu`) and requirements, because the build itself is on PyTorch's own index. pip only plans; it installs nothing.

    python benchmarks/cpu_install.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

from packaging.requirements import Requirement

CLONE = Path(__file__).parents[1]
CUDA = re.compile(r"nvidia-|cuda-")
SMALL = ["--set", "budget.n_trials=3", "--set", "budget.epochs=2", "--back-end", "in-process"]
RUN = f"import sys; sys.argv = ['paretune', 'run', 'digits', *{SMALL!r}]; from search.cli import main; main()"


def needed(name: str, extras: tuple[str, ...] = ()) -> dict[str, Distribution]:
    """Return an installed distribution and all that it requires, by their names."""
    found: dict[str, Distribution] = {}
    waiting, known = [(name, extras)], set[tuple[str, tuple[str, ...]]]()
    while waiting:
        name, extras = key = waiting.pop()
        if key in known:
            continue
        known.add(key)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        for one in map(Requirement, found[name].requires or []):
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting += [(one.name.lower().replace("_", "-"), tuple(sorted(one.extras)))]
    return found


def size(held: Distribution) -> int:
    """Return the bytes of a distribution's files."""
    paths = (Path(str(file.locate())) for file in held.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


def searches_without(left_out: re.Pattern[str], folder: Path) -> str:
    """Return how a small search ends with links to all installed packages but those whose names match: in its last line."""
    site = folder / "site"
    site.mkdir()
    for held in distributions():
        name = str(held.metadata["Name"]).lower().replace("_", "-")
        if left_out.match(name):
            continue
        for top in {file.parts[0] for file in held.files or () if file.parts[0] != ".."}:
            if top == "torch":  # as a link it would find the libraries next to the original
                shutil.copytree(str(held.locate_file(top)), site / top)
            elif not (site / top).exists():
                (site / top).symlink_to(held.locate_file(top))
    for package in ("search", "spaces", "trainables", "cluster"):
        (site / package).symlink_to(CLONE / package)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-c", RUN]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    return "it searches" if done.returncode == 0 else f"it ends: {done.stderr.strip().splitlines()[-1]}"


def stand_in(folder: Path) -> Path:
    """Write a wheel with the version of torch's build without CUDA and its requirements, and nothing else."""
    version = f"{distribution('torch').version.partition('+')[0]}+cpu"
    others = [
        one for one in distribution("torch").requires or [] if not re.match(r"nvidia|cuda|triton", one) and "extra" not in one
    ]
    known = f"torch-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: torch\nVersion: {version}", *(f"Requires-Dist: {one}" for one in others)]
    path = folder / f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{known}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{known}/WHEEL", "Wheel-Version: 1.0\nGenerator: paretune\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{known}/RECORD", "")
    return path


def planned(folder: Path, *, with_torch: bool) -> list[str]:
    """Return what pip would install of Paretune into a new environment, as NAME VERSION."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if with_torch:
        subprocess.run([*pip, "install", "--no-deps", str(stand_in(folder))], check=True)
    plan = ["install", "--dry-run", "--report", "-", "--constraint", str(CLONE / "constraints.txt"), str(CLONE)]
    told = json.loads(subprocess.run([*pip, *plan], check=True, capture_output=True, text=True).stdout)
    return sorted(f"{one['metadata']['name']} {one['metadata']['version']}" for one in told["install"])


def main() -> None:
    sizes = {name: size(held) for name, held in needed("paretune").items()}
    parts = {
        "CUDA's libraries": sum(n for name, n in sizes.items() if CUDA.match(name)),
        "Triton": sum(n for name, n in sizes.items() if name == "triton"),
        "torch": sizes["torch"],
        "everything else": sum(n for name, n in sizes.items() if not CUDA.match(name) and name not in ("triton", "torch")),
    }
    rows = "\n".join(f"| {part} | {n / 1e9:.2f} |" for part, n in {**parts, "together": sum(parts.values())}.items())
    print("# An installation without CUDA\n\nMade by `python benchmarks/cpu_install.py`.\n")
    print(f"| part | GB installed |\n|---|---|\n{rows}\n")
    print("| left out of torch's build for CUDA | `paretune run` |\n|---|---|")
    for words, pattern in (("nothing", "(?!)"), ("Triton", "triton$"), ("CUDA's libraries and Triton", "nvidia-|cuda-|triton$")):
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {words} | {searches_without(re.compile(pattern), Path(folder))} |", flush=True)
    print("\n| the environment holds | packages that pip adds | of which CUDA's and Triton |\n|---|---|---|")
    for words, with_torch in (("nothing", False), ("torch's build without CUDA (a stand-in)", True)):
        with tempfile.TemporaryDirectory() as folder:
            added = planned(Path(folder), with_torch=with_torch)
        of_cuda = [one for one in added if CUDA.match(one) or one.startswith("triton ")]
        print(f"| {words} | {len(added)} | {len(of_cuda)} |", flush=True)


if __name__ == "__main__":
    main()

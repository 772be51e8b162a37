"""Wheel: installed into an empty environment, it has everything that a run needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
NOT_COPIED = (".*", "build", "dist", "runs", "results", "*.egg-info", "__pycache__")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command outside of the checkout, without the paths that lead there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    environment["OMP_NUM_THREADS"] = "1"  # threads of busy cores wait for each other
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with wheel and source distribution, as `make build` makes them."""
    copy, target = tmp_path_factory.mktemp("copy") / "p2pfl", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, copy, folder=copy)
    return target


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel, and the libraries of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    [wheel] = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    # Path files of the folder itself, such as that of an editable installation, are not read.
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_distributions_hold_the_package_and_its_files(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == [
        f"p2pfl_swarm-{VERSION}-py3-none-any.whl",
        f"p2pfl_swarm-{VERSION}.tar.gz",
    ]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith("p2pfl_swarm-")}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "p2pfl").rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js", ".typed")
    }
    assert names == package


def test_an_installed_wheel_trains_a_swarm(environment: Path, tmp_path: Path) -> None:
    p2pfl = environment / "p2pfl"
    found = run(environment / "python", "-c", "import p2pfl; print(p2pfl.__file__)", folder=tmp_path)
    assert Path(found.strip()).is_relative_to(environment.parent)
    assert run(p2pfl, "--version", folder=tmp_path) == f"p2pfl {VERSION}\n"
    run(p2pfl, "topology", "make", "ring", "-n", "3", "-o", "ring.graphml", folder=tmp_path)
    sizes = "--dataset digits --model vgg11 --width 0.125 --rounds 2 --local-steps 1 --eval-samples 32"
    sizes += " --consensus-tolerance 0.5 --run-dir run"
    run(p2pfl, "gossip", "ring.graphml", *sizes.split(), folder=tmp_path)
    assert (tmp_path / "run" / "consensus.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()

"""Pictures of the documentation, made from real runs.

`python -m docs.make_pictures`: a ring of eight peers on digits and a comparison of a ring with a full mesh run in a
temporary folder; a headless Chromium takes pictures of their reports. Each picture is a PNG of few colors, so that the
files stay small.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "img"
WIDTH = 1240  # pixels
COLORS = 200
SECONDS = 600

# Picture -> its height in pixels, and the command whose report it shows.
PICTURES: dict[str, tuple[int, str]] = {
    "report.png": (712, "gossip topologies/ring-8.graphml --rounds 12 --eval-every 1"),
    "comparison.png": (892, "compare topologies/ring-8.graphml topologies/mesh-8.graphml --rounds 8"),
}
SETTINGS = "--dataset digits --model vgg11 --width 0.25 --lr 0.02 --threads 1"


def browser() -> str:
    """Path of a Chromium. Raises SystemExit where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("make_pictures: needs chromium, which takes the pictures")


def take(page: Path, picture: Path, height: int) -> None:
    """Take a picture of the top of a page."""
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1"
    command = [browser(), *flags.split(), f"--window-size={WIDTH},{height}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    with Image.open(picture) as taken:
        small = taken.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    """Run, and take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    browser()
    with tempfile.TemporaryDirectory() as folder:
        for name, (height, command) in PICTURES.items():
            run_dir = Path(folder) / name
            words = [*command.split(), *SETTINGS.split(), "--run-dir", str(run_dir)]
            subprocess.run([sys.executable, "run_peers.py", *words], cwd=ROOT, check=True)
            take(run_dir / "report.html", IMAGES / name, height)
            print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

"""Write docs/report.png, the picture of a report in README: after `make demo`, run `python .dvc/readme_picture.py`.

Chromium draws the demo's report twice: its head, and its mistakes in dark colours. Both stand side by side.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEMO, PICTURE = ROOT / ".demo", ROOT / "docs/report.png"
WIDTH, HEIGHT = 1000, 1250  # of each half in CSS pixels
SCALE = 0.62  # of the picture
COLOURS = 256

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    from browser import CHROMIUM, browser

    from cifar.config.params import read_yaml

    report = DEMO / "report/index.html"
    if not report.is_file():
        sys.exit("error: .demo/report/index.html is missing; run `make demo` first")
    if read_yaml(DEMO / "params.yaml")["dataset"] != "shapes":
        sys.exit("error: .demo holds other images than shapes, and those do not belong into Git; run `make demo` again")
    if not CHROMIUM:
        sys.exit("error: Chromium is missing; `apt-get install chromium`")
    with browser() as tab, tempfile.TemporaryDirectory() as folder:
        halves = []
        for name, is_dark in (("classes", False), ("mistakes", True)):
            tab.show(report, WIDTH, height=HEIGHT, dark=is_dark)
            if is_dark:
                tab.value(f"document.getElementById('{name}').scrollIntoView()")
            tab.screenshot(Path(folder, f"{name}.png"))
            halves.append(Image.open(Path(folder, f"{name}.png")).convert("RGB"))
    picture = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for number, half in enumerate(halves):
        picture.paste(half, (number * WIDTH, 0))
    size = round(2 * WIDTH * SCALE), round(HEIGHT * SCALE)
    small = picture.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True)
    print(f"written: {PICTURE.relative_to(ROOT)} ({PICTURE.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()

"""Write .dvc/page.html, the page that `dvc plots` fills. It holds Vega, so charts are drawn without a network.

The licences in it are those of the npm packages that vl-convert-python holds. They are kept in .dvc/vega-licences.txt;
after a new version of vl-convert-python, npm fetches them again.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import vl_convert

from cifar.results.vega import VERSION

HERE = Path(__file__).resolve().parent
LICENCES = HERE / "vega-licences.txt"
NOT_PUBLISHED = {("robust-predicates", "3.0.0"): "3.0.3"}  # npm has it no more; this one has the same licence

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<link rel="icon" href="data:,">
<title>Plots</title>
<style>
body { margin: 2rem; font: 1rem/1.5 system-ui, sans-serif }
body { display: flex; flex-wrap: wrap; gap: 2rem; align-items: start }
body > div { max-width: 100%; overflow-x: auto }
img { max-width: 100%; height: auto }
</style>
<!-- The script below holds Vega, Vega-Lite, Vega-Embed and packages that they use. Their licences, as they ship them:

LICENCES-->
<script>
BUNDLE
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main() -> None:
    wanted = held_packages()
    if not wanted.items() <= listed_packages().items():
        LICENCES.write_text(fetch_licences(wanted), encoding="utf-8", newline="\n")
        print(f"written: .dvc/{LICENCES.name}, from npm")
    (HERE / "page.html").write_text(page(), encoding="utf-8", newline="\n")
    print(f"written: .dvc/page.html ({(HERE / 'page.html').stat().st_size:,} bytes)")


def page() -> str:
    """The page with DVC's placeholders; without `{scripts}`, by which DVC would load Vega from the web."""
    bundle = vl_convert.javascript_bundle(vl_version=VERSION)
    return PAGE.replace("LICENCES", LICENCES.read_text(encoding="utf-8")).replace("BUNDLE", bundle)


def held_packages() -> dict[str, str]:
    """The npm packages in vl-convert-python by name, with their versions: its library holds them by their addresses."""
    (library,) = Path(vl_convert.__file__).parent.glob("vl_convert.*.so")
    named = re.findall(rb"/npm/((?:@[\w.-]+/)?[\w.-]+)@(\d+\.\d+\.\d+)", library.read_bytes())
    packages = {(name.decode(), version.decode()) for name, version in named}
    found = {name: version for name, version in packages if name != "vega-lite" or version.startswith(f"{VERSION}.")}
    assert len(found) == len({name for name, _ in packages}), "a package is there in two versions"
    return {name: NOT_PUBLISHED.get((name, version), version) for name, version in sorted(found.items())}


def listed_packages() -> dict[str, str]:
    """The packages whose licences are in LICENCES, with their versions."""
    text = LICENCES.read_text(encoding="utf-8") if LICENCES.exists() else ""
    entries = [entry for line in re.findall(r"^==== (.+@.+)$", text, re.MULTILINE) for entry in line.split(", ")]
    return dict(entry.rsplit("@", 1) for entry in entries)


def fetch_licences(packages: dict[str, str]) -> str:
    """The licences as the packages ship them, also of those that are copied into vega-embed's own file.

    Above each text is the list of the packages that have it.
    """
    if not shutil.which("npm"):
        sys.exit("error: vl-convert-python holds packages that .dvc/vega-licences.txt lacks; install npm to fetch them")
    packages_by_text: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "node_modules")
        Path(folder, "package.json").write_text(json.dumps({"private": True, "dependencies": packages}))
        install = ["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(install, cwd=folder).returncode:
            sys.exit("error: npm could not fetch the packages that vl-convert-python holds")
        sources = json.loads((root / "vega-embed/build/embed.js.map").read_text(encoding="utf-8"))["sources"]
        copied = {match[1] for source in sources if (match := re.search(r"node_modules/([^/]+)", source))}
        for name in sorted({*packages, *copied}):
            version = json.loads((root / name / "package.json").read_text(encoding="utf-8"))["version"]
            (file,) = (path for path in (root / name).iterdir() if re.match("licen[sc]e", path.name, re.IGNORECASE))
            lines = file.read_text(encoding="utf-8").strip().splitlines()
            text = "\n".join(line.rstrip() for line in lines)
            packages_by_text.setdefault(text, []).append(f"{name}@{version}")
    return "\n".join(f"==== {', '.join(names)}\n\n{text}\n" for text, names in packages_by_text.items())


if __name__ == "__main__":
    main()

"""Write .dvc/page.html, the page that `dvc plots` fills. It holds Vega, so charts are drawn without a network."""

from pathlib import Path

import vl_convert

HERE = Path(__file__).resolve().parent
VEGA_LITE = "5.21"  # the templates are in version 5

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
<!-- The script below holds Vega, Vega-Lite and Vega-Embed with what they need.
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


def page() -> str:
    """The page with DVC's placeholders; without `{scripts}`, by which DVC would load Vega from the web."""
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    licences = (HERE / "vega-licences.txt").read_text(encoding="utf-8")
    return PAGE.replace("LICENCES", licences).replace("BUNDLE", bundle)


if __name__ == "__main__":
    (HERE / "page.html").write_text(page(), encoding="utf-8", newline="\n")
    print(f"written: .dvc/page.html ({(HERE / 'page.html').stat().st_size:,} bytes)")

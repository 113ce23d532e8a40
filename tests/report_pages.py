"""Reading the pages that vidur.report writes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest


def page_and_charts(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The page before its scripts, and its charts. The page loads nothing, and has a figure for each chart."""
    page = path.read_text()
    head, _, rest = page.partition("<script ")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=", page)
    assert unpacked(page, "plotly").startswith("/**\n* plotly.js v") and "Plotly.react" in rest
    charts = json.loads(rest.partition("id='charts'>")[2].partition("</script>")[0])
    assert head.count("class='plot' id='chart") == len(charts)
    return head, charts


def unpacked(page: str, name: str) -> str:
    """The text that the page holds under that name."""
    packed = page.partition(f"<script type='text/plain' id='{name}'>")[2].partition("</script>")[0]
    return zlib.decompress(base64.b64decode(packed)).decode()


def in_browser(page: Path, **address: str) -> str:
    """The page's elements once its scripts have run. address: the names and values behind `#`."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to open the page with")
    flags = "--headless=new --no-sandbox --disable-gpu --window-size=1360,4000 --virtual-time-budget=6000 --dump-dom"
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [browser, *flags.split(), profile, f"{page.as_uri()}#{urlencode(address)}"]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return dumped.stdout.partition("<body>")[2].partition("<script ")[0]

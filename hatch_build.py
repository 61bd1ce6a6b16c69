"""Build hook: the page (ui/) becomes a part of the wheel, so that who installs it needs no node.

BEAMSTREAM_PAGE=skip leaves it out; BEAMSTREAM_RELEASE=1 makes a build without it fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_WEB = "src/beamstream/monitor/web"


class PageHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        release = os.environ.get("BEAMSTREAM_RELEASE", "") == "1"
        skip = os.environ.get("BEAMSTREAM_PAGE", "") == "skip"
        if skip and release:
            raise RuntimeError("a release has the page: BEAMSTREAM_PAGE=skip is for others")
        if not skip:
            self._build(strict=release)
        page = Path(self.root, _WEB, "index.html")
        if release and not page.is_file():
            raise RuntimeError(f"a release has the page, and {_WEB}/index.html is not there")
        # It is not in git, and the wheel takes what is in git only. An editable install finds it
        # where it is.
        if not skip and page.is_file() and version != "editable":
            build_data["artifacts"].append(f"/{_WEB}/**")

    def _build(self, *, strict: bool) -> None:
        tool = Path(self.root, "tools", "build_page.py")
        flags = ["--strict"] if strict else []
        done = subprocess.run(  # noqa: S603
            [sys.executable, str(tool), *flags], stderr=subprocess.PIPE, text=True, check=False
        )
        for line in done.stderr.splitlines():
            self.app.display_warning(line) if "not built" in line else self.app.display_info(line)
        if done.returncode:
            raise RuntimeError(f"the page cannot be built\n{done.stderr}")

"""Where the shipped `gin/` and `tasks/` are: in the checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def project_root() -> Path:
    """The folder with the shipped `gin/` and `tasks/`."""
    installed = _PACKAGE / "project"
    return installed if installed.is_dir() else _PACKAGE.parent


def gin_search_paths(extra: tuple[str, ...] = ()) -> list[Path]:
    """Where `--gin_file` and `include` look: here, `extra`, the project's gin/, the shipped one."""
    paths = [Path(), *map(Path, extra), Path("gin"), project_root() / "gin"]
    return list(dict.fromkeys(paths))

"""What a job takes along to a cluster: malmoi itself, the recipe, and the modules and files that it names.

malmoi goes as an unpacked wheel (packages beside their `.dist-info`), not as a `.whl`: for those Ray calls
`pip install --target`, which needs pip on each node and fetches every dependency anew, Ray included.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from malmoi.operators import OPERATORS

from .errors import RecipeError
from .yaml_file import read_yaml

PACKAGES = ("operators", "pipeline", "training")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MAX_BYTES = 100 * 1024**2  # Ray keeps what a job ships in the head's memory
_CACHES = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", "*.pyc", ".git", ".venv")


def unpacked_wheel(folder: Path) -> list[str]:
    """Put malmoi as it is installed here into `folder`; the paths for `py_modules`.

    The metadata come along, because a run's identity holds the version and commands are found by entry points.
    """
    package = folder / "malmoi"
    for name in PACKAGES:
        spec = importlib.util.find_spec(f"malmoi.{name}")
        if spec is not None and spec.submodule_search_locations:
            shutil.copytree(spec.submodule_search_locations[0], package / name, ignore=_CACHES)
    found = distribution("malmoi")
    info = folder / f"malmoi-{found.version}.dist-info"
    info.mkdir(parents=True)
    metadata = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(found.read_text("entry_points.txt") or "", encoding="utf-8")
    return [str(package), str(info)]


def working_folder(recipe: str, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Put the recipe under its name into `folder`, the modules of its own operators, and relative files.

    Values of the steps and tokenizers that name a file below the folder that one is in, or the folder of a
    tokenizer, come along under the same path. RecipeError where a module cannot be found or all of it is too
    large.
    """
    data, _ = read_yaml(recipe, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe, folder / Path(recipe).name)
    for module in _modules(data.get("steps")):
        _copy_module(module, folder)
    for name in _named_files([data.get("steps"), data.get("mixture"), data.get("tokenize")]):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, target)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise RecipeError(
            f"{recipe}: the job would ship {size:,} bytes of modules and files, at most {MAX_BYTES:,}: put models "
            "on the nodes (image, setup_commands) and name them by absolute paths"
        )


def _modules(steps: object) -> list[str]:
    """Top-level modules of operators that are named by dotted paths."""
    names: set[str] = set()
    for step in steps if isinstance(steps, list) else []:
        for name in step if isinstance(step, dict) else [step]:
            if isinstance(name, str) and ":" in name and name not in OPERATORS:
                names.add(name.partition(":")[0].partition(".")[0])
    return sorted(names - {"malmoi"})


def _copy_module(name: str, folder: Path) -> None:
    """A package whole; a module with the modules of its folder that importing it has loaded.

    What lies where packages are installed is not shipped: it has to be installed on the nodes.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise RecipeError(f"cannot find the module {name!r} of a step; is it on PYTHONPATH?")
    if spec.submodule_search_locations:
        place = Path(next(iter(spec.submodule_search_locations)))
        if not _installed(place):
            shutil.copytree(place, folder / name, ignore=_CACHES, dirs_exist_ok=True)
    elif spec.origin is not None and not _installed(Path(spec.origin)):
        for path in _loaded_beside(name, Path(spec.origin)):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=_CACHES, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, folder / path.name)


def _installed(path: Path) -> bool:
    roots = {sysconfig.get_path(x) for x in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(path.is_relative_to(root) for root in roots)


def _loaded_beside(name: str, origin: Path) -> set[Path]:
    """The module's file, and what lies beside it and is loaded after importing it."""
    try:
        importlib.import_module(name)
    except Exception as error:
        raise RecipeError(f"{origin}: cannot be imported ({type(error).__name__}: {error})") from error
    found = {origin}
    for loaded in list(sys.modules.values()):
        file = getattr(loaded, "__file__", None)
        top = (getattr(loaded, "__name__", "") or "").partition(".")[0]
        if not file or not Path(file).is_relative_to(origin.parent) or _installed(Path(file)):
            continue
        beside = [origin.parent / f"{top}.py", origin.parent / top]
        if top not in ("malmoi", "__main__"):
            found |= {path for path in beside if path.exists() and path in (Path(file), *Path(file).parents)}
    return found


def _named_files(value: object) -> set[str]:
    """Relative paths of files below this folder among the values of a mapping or list, at any depth; of a
    tokenizer also what lies beside it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*(_named_files(item) for item in value)) if value else set()
    if not isinstance(value, str) or not value or len(value) > 1000 or "\0" in value:
        return set()
    path = Path(value)
    if path.is_absolute() or ".." in path.parts:
        return set()
    found = {value} if path.is_file() else set()
    folder = path.parent if path.name == TOKENIZER[0] else path
    if (folder / TOKENIZER[0]).is_file():
        found |= {str(folder / name) for name in TOKENIZER if (folder / name).is_file()}
    return found


def read_environment(path: str) -> dict[str, object]:
    """A runtime environment of Ray's from a YAML file (`env_vars`, `pip`, `uv`, ...)."""
    data, _ = read_yaml(path)
    for name in ("working_dir", "py_modules"):
        if name in data:
            raise RecipeError(f"{path}: {name} is made by `malmoi submit`; leave it out")
    return data

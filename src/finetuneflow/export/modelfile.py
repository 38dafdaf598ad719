"""The Modelfile beside an exported GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetuneflow.artifacts import GGUF_MODEL
from finetuneflow.providers.modelfile import Modelfile, render


def render_modelfile(
    *,
    gguf: str = GGUF_MODEL,
    adapter: str | None = None,
    system: str | None = None,
    template: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """The text for `ollama create NAME -f Modelfile`: `FROM ./model.gguf` and what was asked for.

    Args:
        gguf: File name, beside the Modelfile.
        adapter: File name of a LoRA adapter as GGUF, for servers up to 0.33.
        system: System prompt.
        template: A Go template; without one the chat template in the file holds.
        parameters: Such as `{"num_ctx": 2048}`; stop tokens are in the file.
        license: Text of the licence.
    """
    return render(
        Modelfile(
            gguf=gguf,
            adapter=adapter,
            system=system,
            template=template,
            parameters=parameters or {},
            license=license,
        )
    )

"""llama.cpp as a program of its own: `python -m finetuneflow.modeling.llama_cpp_server --model FILE`.

It is a whole llama-server, so what it answers is what applications get; a file that makes llama.cpp abort
ends this process and no other. One JSON line on stdout once it listens, `{"address": …, "runtime": …}`;
what llama.cpp says goes to stderr. Who asks must send the key that stands in the environment as
`FTF_SERVE_API_KEY`, when there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import xllamacpp

API_KEY_VARIABLE = "FTF_SERVE_API_KEY"
CONTEXT_TOKENS = 8192
"""Context of a conversation unless asked otherwise; a model made for less keeps its own."""
ERRORS_ONLY = 1


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The program's arguments."""
    parser = argparse.ArgumentParser(prog="llama_cpp_server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--alias", default=None, help="the model's name for those who ask")
    parser.add_argument("--parallel", type=int, default=1, help="conversations answered at the same time")
    parser.add_argument("--threads", type=int, default=0, help="0: FTF_THREADS, else one per core")
    parser.add_argument("--context", type=int, default=0, help="tokens of one conversation")
    parser.add_argument("--adapter", type=Path, default=None, help="a LoRA adapter as GGUF")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin is closed")
    return parser.parse_args(arguments)


def parameters(arguments: argparse.Namespace) -> xllamacpp.CommonParams:
    """llama.cpp's settings: no pages of its own, no other site's scripts, nothing shown of other requests."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(arguments.model)
    chosen.model_alias = {arguments.alias or arguments.model.stem}
    if arguments.adapter:
        chosen.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(arguments.adapter), 1.0)]
    chosen.hostnames = [arguments.host]
    chosen.port = arguments.port
    chosen.api_keys = [key] if (key := os.environ.get(API_KEY_VARIABLE)) else []
    chosen.n_parallel = arguments.parallel
    chosen.n_ctx = (arguments.context or CONTEXT_TOKENS) * arguments.parallel
    threads = arguments.threads or int(os.environ.get("FTF_THREADS", "0")) or usable_cores()
    chosen.cpuparams.n_threads = threads
    chosen.cpuparams_batch.n_threads = threads
    chosen.use_jinja = True
    chosen.warmup = False
    # Would try contexts and layers until they fit the device: slow, and it says nothing about what it chose.
    chosen.fit_params = False
    chosen.ui = False
    chosen.endpoint_slots = False
    chosen.cors_origins = ""
    chosen.cors_methods = ""
    chosen.cors_headers = ""
    chosen.cors_credentials = False
    chosen.verbosity = ERRORS_ONLY
    return chosen


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def runtime() -> str:
    """The llama.cpp at hand, with its version."""
    return f"llama.cpp via xllamacpp {xllamacpp.__version__}"


def main() -> None:
    """Serves until it is ended."""
    arguments = parse_arguments()
    # The pipe is for our one line; what the library prints belongs to stderr.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(parameters(arguments))
    except RuntimeError:
        sys.exit(1)  # llama.cpp has said why, on stderr
    pipe.write(json.dumps({"address": server.listening_address, "runtime": runtime()}) + "\n")
    pipe.close()
    if arguments.end_with_stdin:
        sys.stdin.buffer.read()
    else:
        signal.pause()
    os._exit(0)  # an orderly end would wait for answers that nobody reads any more


if __name__ == "__main__":
    main()

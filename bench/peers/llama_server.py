"""llama.cpp's own server in a process of its own, through the xllamacpp wheel.

`python -m bench.peers.llama_server MODEL.gguf ...` prints its URL and serves until its standard
input ends, so that it never outlives who started it. `LlamaServer` is the side that starts it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import psutil

from bench.fleets import ROOT

_URL = "serving at "
_STOP_TIMEOUT_S = 10.0


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="positions of each stream")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(chosen.model)
    params.n_parallel = chosen.streams
    params.n_ctx = chosen.streams * chosen.context
    params.cpuparams.n_threads = chosen.threads
    params.cpuparams_batch.n_threads = chosen.threads
    params.hostnames = ["127.0.0.1"]
    params.n_gpu_layers = 0
    params.fit_params = False
    # Its default keeps up to 8 GiB of old prompts; ours keeps none here either.
    params.cache_ram_mib = 0
    params.cache_prompt = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(f"{_URL}{server.listening_address}", flush=True)
    sys.stdin.read()


class LlamaServer:
    """One server from start to stop: `with LlamaServer(path, streams=8, context=1024) as it`."""

    def __init__(self, model: Path, *, streams: int, context: int, threads: int = 1) -> None:
        arguments = [str(model), "--streams", str(streams), "--context", str(context)]
        arguments += ["--threads", str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.llama_server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.url = ""

    def __enter__(self) -> LlamaServer:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_URL):
                self.url = line.removeprefix(_URL).strip()
                return self
        self.__exit__(None, None, None)
        raise RuntimeError("llama.cpp's server ended before it served")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.pid)]


if __name__ == "__main__":
    main()

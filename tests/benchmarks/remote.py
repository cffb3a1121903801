"""What remote checkpoints cost, from a server on loopback that answers each request late, as one far away does.

    python tests/benchmarks/remote.py | tee tests/benchmarks/REMOTE.md

Sparse files of zeros, shown by a process of its own; the server counts requests and bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from processes import QKVINSPECT, run
from scale import decoder, sharded, write

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.remote.server import Asked, Handler, serving

LATENCY = 0.05


def serve(folder: Path, pipe: Connection) -> None:
    """Serve until told to stop; told to count, tell what was asked since."""

    def late(handler: Handler, asked: Asked) -> bool:
        time.sleep(LATENCY)
        return False

    with serving(folder) as web:
        web.fault = late
        pipe.send(web.url)
        while pipe.recv():
            pipe.send((len(web.asked), web.sent))
            web.asked.clear()


def main() -> None:
    print("| | size | requests | fetched | seconds | peak MB |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "shards").mkdir()
        size = sharded(folder / "shards", 40, 4096, 36864)
        tensors = {name: shape for layer in range(40) for name, shape in decoder(layer, 4096, 36864).items()}
        one = write(folder / "model.safetensors", tensors, "BF16")
        (folder / "config.json").write_text(json.dumps({"num_attention_heads": 32, "num_key_value_heads": 4}))
        here, there = Pipe()
        server = Process(target=serve, args=(folder, there))
        server.start()
        url = here.recv()
        for name, place, nbytes, flags in (
            ("shapes of 40 shards", "shards/", size, ["--no-norms"]),
            ("norms of 40 shards", "shards/", size, []),
            ("shapes of one file", "model.safetensors", one, ["--no-norms"]),
            ("norms of one file", "model.safetensors", one, []),
            ("norms of one of its layers", "model.safetensors", one, ["--layer", "model.layers.20.*"]),
        ):
            taken, _ = run((*QKVINSPECT, "show", f"{url}/{place}", *flags), folder / "cache")
            here.send(True)
            requests, sent = here.recv()
            figures = f"{nbytes / 1e9:,.1f} GB | {requests:,} | {sent / 1e6:,.1f} MB"
            print(f"| {name} | {figures} | {taken.seconds:.2f} | {taken.megabytes:.0f} |", flush=True)
        here.send(False)
        server.join()


if __name__ == "__main__":
    main()

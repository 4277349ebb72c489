"""A black box: a model behind HTTP, explained from its answers alone, within a budget.

    python examples/black_box.py [FOLDER]

Starts a server in this process that speaks KServe's v1 protocol (in place of yours), and asks it
about noisy copies of a digit: for slopes of tiles, then of pixels. Prints how near they come to the
truth, which only this example knows. Writes FOLDER/black_box_tiles.png and black_box_pixels.png.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import torch

from pyxai_fast import BlackBox, LikelihoodRatio, Saliency, explain
from pyxai_fast.demo import load_demo_model, load_digits

MODEL = load_demo_model()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        answer = json.dumps({"predictions": MODEL(torch.tensor(rows)).tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


def main(folder: str = ".") -> dict[str, float]:
    digit, cosines = load_digits("test")[0][3:4], {}
    exact = Saliency(MODEL).attribute(digit, MODEL(digit).argmax(1), abs=False).flatten()
    ways = {"tiles": {"blocks": 4, "mode": "shared"}, "pixels": {}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/models/digits:predict"
    with BlackBox.from_url(url, budget=5000, rows_per_request=256) as box:
        for name, options in ways.items():
            gradient = LikelihoodRatio(1024, sigma=0.05, antithetic=False, **options)
            found = explain(box, digit, method="saliency", abs=False, gradient=gradient)
            cosines[name] = float(torch.cosine_similarity(found.attributions.flatten(), exact, 0))
            noise = float(found.standard_error.norm() / found.attributions.norm())
            print(f"{name:6} cosine {cosines[name]:.2f} to the gradient, its error {noise:.0%}")
            found.plot(Path(folder) / f"black_box_{name}.png")
        print(f"{box.queries} rows were asked, {box.remaining} are left")
    server.shutdown()
    return cosines


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How fast a server answers, what micro-batches bring, and whether it loses or keeps anything.

    python benchmarks/load_server.py [--quick] [--rounds N] [--requests N] [--json FILE]

Starts two servers of the demo model on this machine, one with micro-batches and one that takes
pictures one by one, and sends both the same pictures, in turns. Each answer is compared with what
the library computes. Writes benchmarks/results/server/CPU.json.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import report
import torch
from machine import RESULTS, ROOT, machine, short_name
from PIL import Image

from pyxai_fast.demo import load_digits
from pyxai_fast.images import read_image
from pyxai_fast.models.spec import load_model
from pyxai_fast.picture_explainer import PictureExplainer

MAX_BATCH = 32
MAX_QUEUE = 1024
PICTURES = 64
# Saliency is one call of the network: what surrounds it weighs the most. Twenty steps are a small
# piece of real work.
WORKS: dict[str, dict[str, Any]] = {
    "predict": {},
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 20},
}
# Of the largest attribution, or of a probability: what rounding in another batch may change.
TOLERANCE = 1e-4
# Growth of the server's memory over the second half of its requests that is still noise.
GROWTH_MB = 4.0


@dataclass
class Load:
    """What one round of requests gave.

    Attributes:
        clients: connections at the same time.
        requests: how many were answered.
        per_second: of them.
        p50, p99: percentiles of the time from request to answer, in milliseconds.
        cpu: milliseconds of processor time that the server spent on each.
    """

    clients: int
    requests: int
    per_second: float
    p50: float
    p99: float
    cpu: float


# ---------------------------------------------------------------- the servers


@dataclass
class Target:
    """A server in a process of its own, and its port."""

    process: psutil.Process
    port: int

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        return float(self.process.memory_info().rss / 2**20)


@contextlib.contextmanager
def server(max_batch: int) -> Iterator[Target]:
    command = [sys.executable, "-m", "pyxai_fast", "serve", "--model", "demo", "--quiet"]
    command += ["--method", "saliency", "--port", "0", "--max-batch", str(max_batch)]
    command += ["--max-queue", str(MAX_QUEUE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[-1])
        while get(port, "/readyz")[0] != 200:
            time.sleep(0.1)
        yield Target(psutil.Process(process.pid), port)
        process.terminate()
        code = process.wait(60)
        if code != 0:
            sys.exit(f"the server ended with {code}")
    finally:
        process.kill()


def get(port: int, path: str) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# ---------------------------------------------------------------- the clients


class Client:
    """A connection that sends its next request when the last one is answered.

    Raw sockets, and answers kept as bytes until the clock has stopped: on a machine with few cores
    what the clients do, the server cannot.
    """

    def __init__(self, port: int) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port))
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number, self.sent, self.parts, self.left = -1, 0.0, b"", -1

    def send(self, number: int, request: bytes) -> None:
        self.number, self.parts, self.left = number, b"", -1
        self.sent = time.perf_counter()
        self.raw.sendall(request)

    def receive(self) -> bytes | None:
        """The whole answer, once it is there."""
        part = self.raw.recv(262_144)
        if not part:
            sys.exit("a request was lost: the server has hung up")
        self.parts += part
        if self.left < 0:
            end = self.parts.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self.parts[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            self.left = end + 4 + length
        return self.parts if len(self.parts) >= self.left else None


def load(
    target: Target, requests: list[bytes], clients: int, count: int
) -> tuple[Load, list[bytes]]:
    """Sends `count` requests, picture after picture; the answers are in that order."""
    answers, times = [b""] * count, [0.0] * count
    with selectors.DefaultSelector() as waiting:
        for _ in range(clients):
            client = Client(target.port)
            waiting.register(client.raw, selectors.EVENT_READ, client)
        sent = done = 0
        used, started = target.cpu_seconds(), time.perf_counter()
        for key in list(waiting.get_map().values()):
            key.data.send(sent, requests[sent % len(requests)])
            sent += 1
        while done < count:
            ready = waiting.select(60)
            if not ready:
                sys.exit(f"a request was lost: no answer for 60 s after {done} of {count}")
            for key, _ in ready:
                client = key.data
                answer = client.receive()
                if answer is None:
                    continue
                times[client.number] = time.perf_counter() - client.sent
                answers[client.number] = answer
                done += 1
                if sent < count:
                    client.send(sent, requests[sent % len(requests)])
                    sent += 1
                else:  # the server hangs up on who says nothing
                    waiting.unregister(client.raw)
                    client.raw.close()
        seconds = time.perf_counter() - started
        cpu = 1000.0 * (target.cpu_seconds() - used) / count
    ordered = sorted(1000.0 * each for each in times)
    p50, p99 = (ordered[min(count - 1, int(share * count))] for share in (0.5, 0.99))
    return Load(clients, count, count / seconds, p50, p99, cpu), answers


def requests_for(work: str, options: dict[str, Any], pictures: list[bytes]) -> list[bytes]:
    verb = "predict" if work == "predict" else "explain"
    query = "" if work == "predict" else f"?method={work}"
    query += "".join(f"&{name}={value}" for name, value in options.items())
    head = f"POST /v1/models/demo:{verb}{query} HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: image/png\r\n"
    return [head.encode() + b"Content-Length: %d\r\n\r\n" % len(p) + p for p in pictures]


# ---------------------------------------------------------------- the answers


def expected(work: str, options: dict[str, Any], pictures: list[bytes]) -> np.ndarray[Any, Any]:
    """What the library gives, one picture at a time."""
    model = load_model("demo", torch.device("cpu"))
    explainer = PictureExplainer(model, "cpu", "saliency" if work == "predict" else work, **options)
    pixels = [read_image(io.BytesIO(p), model.preprocessing)[None] for p in pictures]
    if work == "predict":
        return np.stack([explainer.predict(x)[0].numpy() for x in pixels])
    return np.stack([np.asarray(explainer(x, numbers=[0]).attributions[0]) for x in pixels])


def check(work: str, answers: list[bytes], right: np.ndarray[Any, Any]) -> float:
    """The largest difference, relative to the largest value of each; ends where it is no answer."""
    worst = 0.0
    for number, answer in enumerate(answers):
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"a request was not answered: {answer[:300]!r}")
        parsed = json.loads(body)
        if work == "predict":
            found = np.array(parsed["predictions"][0])
        else:
            sent = parsed["explanations"][0]["attributions"]
            found = np.frombuffer(base64.b64decode(sent["b64"]), "<f4").reshape(sent["shape"])
        true = right[number % len(right)]
        worst = max(worst, float(np.abs(found - true).max() / np.abs(true).max()))
    if worst > TOLERANCE:
        sys.exit(f"{work}: an answer is wrong: it is off by {worst:.1e} of the largest value")
    return worst


# ---------------------------------------------------------------- what is measured


def measure(
    work: str, targets: dict[str, Target], pictures: list[bytes], rounds: int, seconds: float
) -> dict[str, Any]:
    """Both servers in turns; the figures of a round are medians."""
    options = WORKS[work]
    requests = requests_for(work, options, pictures)
    right = expected(work, options, pictures)
    found: dict[str, dict[int, list[Load]]] = {name: {} for name in targets}
    worst = 0.0
    for clients in (1, 8, 64):
        counts = {}
        for name, target in targets.items():  # warms up, and finds how many requests take how long
            trial, _ = load(target, requests, clients, max(2 * clients, 32))
            counts[name] = max(4 * clients, int(trial.per_second * seconds))
        for _ in range(rounds):
            for name, target in targets.items():
                result, answers = load(target, requests, clients, counts[name])
                worst = max(worst, check(work, answers, right))
                found[name].setdefault(clients, []).append(result)
    servers = {
        name: [summary(loads) for loads in of_clients.values()]
        for name, of_clients in found.items()
    }
    ratios = {
        str(many["clients"]): many["per_second"] / single["per_second"]
        for many, single in zip(servers["micro-batches"], servers["one by one"], strict=True)
    }
    return {
        "options": options,
        "servers": servers,
        "ratios": ratios,
        "largest_difference": worst,
    }


def summary(loads: list[Load]) -> dict[str, Any]:
    fields = asdict(loads[0])
    for name in ("requests", "per_second", "p50", "p99", "cpu"):
        fields[name] = statistics.median(getattr(each, name) for each in loads)
    fields["requests"] = sum(each.requests for each in loads)
    return fields


def memory(target: Target, pictures: list[bytes], count: int) -> dict[str, Any]:
    """The server's resident memory while it answers `count` requests."""
    requests = requests_for("saliency", {}, pictures)
    right = expected("saliency", {}, pictures)
    samples = []
    for _ in range(10):
        _, answers = load(target, requests, 16, count // 10)
        check("saliency", answers, right)
        samples.append(target.megabytes())
        print(f"  after {len(samples) * count // 10:6} requests: {samples[-1]:.1f} MB", flush=True)
    growth = samples[-1] - samples[4]
    if growth > GROWTH_MB:
        sys.exit(f"the server's memory grows: {growth:.1f} MB over {count // 2} requests")
    return {"requests": count, "megabytes": samples, "growth_in_second_half": growth}


def encoded(pixels: torch.Tensor) -> bytes:
    """Pixels [1, H, W] as a PNG."""
    file = io.BytesIO()
    grey = np.rint(pixels[0].numpy() * 255).astype(np.uint8)
    Image.fromarray(grey).save(file, "PNG", optimize=True)
    return file.getvalue()


def overload(target: Target, pictures: list[bytes]) -> dict[str, int]:
    """More than may wait, in many queues: all is answered, and what is refused says so."""
    head = "POST /v1/models/demo:explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    encoded = base64.b64encode(pictures[0]).decode()
    requests = []
    for n_steps in range(20, 52):
        parameters = {"method": "integrated_gradients", "n_steps": n_steps}
        body = json.dumps({"instances": [{"b64": encoded}] * 64, "parameters": parameters})
        requests.append(f"{head}{len(body)}\r\n\r\n{body}".encode())
    _, answers = load(target, requests, 64, 128)
    codes = [int(answer.split()[1]) for answer in answers]
    found = {str(code): codes.count(code) for code in sorted(set(codes))}
    if set(found) != {"200", "429"}:
        sys.exit(f"under overload there must be answers with 200 and with 429, got {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="does it run? Stores nothing")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each figure")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of a round")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="for memory")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--json", metavar="FILE", help="in place of the file in results")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.requests = 1, 0.2, 500
    torch.set_num_threads(1)
    info = machine()
    pictures = [encoded(pixels) for pixels in load_digits("test")[0][:PICTURES]]
    result: dict[str, Any] = {"machine_info": info, "max_batch": MAX_BATCH, "works": {}}
    with server(MAX_BATCH) as many, server(1) as single:
        targets = {"micro-batches": many, "one by one": single}
        for work in options.works:
            measured = measure(work, targets, pictures, options.rounds, options.seconds)
            result["works"][work] = measured
            print_work(work, measured)
        print("memory of the server with micro-batches")
        result["memory"] = memory(many, pictures, options.requests)
        result["overload"] = overload(many, pictures)
        print(f"under overload, answers by their code: {result['overload']}")
    print("every request was answered, and rightly")
    # In a folder of its own: the report has a section for each file beside it.
    path = RESULTS / "server" / f"{short_name(str(info['cpu']))}.json"
    if options.json is not None or not options.quick:
        path.parent.mkdir(exist_ok=True)
        with open(options.json or path, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=1) + "\n")
        print(f"wrote {options.json or path.relative_to(ROOT)}")
    if options.json is None and not options.quick:
        report.main()
        print(f"wrote {report.README.relative_to(ROOT)}")


def print_work(work: str, measured: dict[str, Any]) -> None:
    rows = [("", "clients", "requests/s", "p50 ms", "p99 ms", "cpu ms")]
    for name, loads in measured["servers"].items():
        for each in loads:
            rows.append(
                (
                    name,
                    str(each["clients"]),
                    f"{each['per_second']:.0f}",
                    f"{each['p50']:.1f}",
                    f"{each['p99']:.1f}",
                    f"{each['cpu']:.2f}",
                )
            )
    set_options = "".join(f" {name}={value}" for name, value in measured["options"].items())
    shown = ", ".join(f"{n} clients: {r:.2f} x" for n, r in measured["ratios"].items())
    print(f"\n{work}{set_options}: throughput with micro-batches, {shown}")
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    sys.stdout.flush()


if __name__ == "__main__":
    main()

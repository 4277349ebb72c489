"""``pyxai-fast serve``: a model behind HTTP that explains itself."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import logging
import math
import os
import re
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from pyxai_fast.cli_options import method_fields, positive_int

if TYPE_CHECKING:
    from pyxai_fast.cli_explainer import MethodRequest
    from pyxai_fast.serving.app import ServingApp

_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, besides those of a model and a method."""
    add = parser.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the model runs")
    add(
        "--name",
        type=_name,
        metavar="NAME",
        help="of the model, in addresses: /v1/models/NAME:explain (default: from --model)",
    )
    add(
        "--methods",
        metavar="NAMES",
        help="methods that clients may choose besides --method, with their defaults, a,b,c; none "
        "for no other (default: the usual ones, for models with gradients)",
    )
    add("--host", default="127.0.0.1", metavar="HOST", help="0.0.0.0 for all of this machine's")
    add("--port", type=_port, default=8080, metavar="N", help="0 for any that is free")
    add("--max-batch", type=positive_int, default=16, metavar="N", help="pictures in a batch")
    add(
        "--max-wait-ms",
        type=_not_negative,
        default=2.0,
        metavar="MS",
        help="how long a picture waits for others, at most, when there is nothing to do",
    )
    add("--max-queue", type=positive_int, default=256, metavar="N", help="pictures that may wait")
    add("--max-body-mb", type=_positive, default=16.0, metavar="MB", help="of a request's body")
    add(
        "--max-pixels",
        type=positive_int,
        default=25_000_000,
        metavar="N",
        help="of a picture that is sent, before it is resized",
    )
    add(
        "--max-work",
        type=positive_int,
        default=20_000,
        metavar="N",
        help="pictures of a request, times the steps, samples or queries of each",
    )
    add(
        "--max-connections",
        type=positive_int,
        default=512,
        metavar="N",
        help="beyond them idle ones are closed, and nothing but health is answered",
    )
    add("--timeout-s", type=_positive, default=60.0, metavar="S", help="for a request")
    add("--body-timeout-s", type=_positive, default=10.0, metavar="S", help="for its body to come")
    add(
        "--allowed-hosts",
        metavar="NAMES",
        help="what the server may be called, a,b,c; * for anything (default: this machine's own "
        "names while --host is one of them, else anything)",
    )
    add(
        "--drain-delay-s",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="to take work for, when stopped, while /readyz says no; not with --ray",
    )
    add("--drain-s", type=_positive, default=30.0, metavar="S", help="to finish in, when stopped")
    add("--quiet", action="store_true", help="no line for each request")
    add("--ray", action="store_true", help="on Ray Serve, with replicas")
    add("--replicas", type=positive_int, default=1, metavar="N", help="of the model, with --ray")
    add(
        "--gpus",
        type=_not_negative,
        default=0.0,
        metavar="N",
        help="for each replica, with --ray; parts of one are shared",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command until it is stopped; returns its exit code.

    Raises:
        UsageError: an option that cannot be used, an address in use, or a missing package.
        ModelSpecError: the model cannot be loaded.
    """
    from pyxai_fast.cli_explainer import MethodRequest, check_request
    from pyxai_fast.cli_images import UsageError, check_packages

    needed = dict.fromkeys(_PACKAGES, "serve") | {"PIL": "serve"}
    if args.ray:
        needed["ray"] = "ray"
    check_packages("serve", "", needed)
    if not args.ray and (args.replicas > 1 or args.gpus > 0):
        raise UsageError("--replicas and --gpus: must be given with --ray")
    if args.ray and args.port == 0:
        raise UsageError("--port: must be a port of its own with --ray, got 0")
    if args.ray and args.drain_delay_s > 0:
        raise UsageError(f"--drain-delay-s: must be 0 with --ray, got {args.drain_delay_s:g}")
    request = MethodRequest(**method_fields(args))
    check_request(request)
    _log(quiet=args.quiet)
    try:
        return _serve_on_ray(args, request) if args.ray else _serve(args, request)
    except OSError as error:
        if error.errno is None:
            raise
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"--host: must be a name or an address of this machine, got {args.host!r}"
            ) from error
        raise UsageError(f"--port: {args.host}:{args.port} cannot be had: {error}") from error


def _serve(args: argparse.Namespace, request: MethodRequest) -> int:
    from pyxai_fast.serving.server import Server, listen

    bound = listen(args.host, args.port)
    host, port = bound.getsockname()[:2]
    app = _app(args, request)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    bound.listen()  # whoever reads the line may connect
    print(f"serving {app.service.name} on {address}", flush=True)
    answered = Server(app, args.drain_s, args.drain_delay_s).serve_on(bound)
    failure = app.service.failure
    if failure is not None:
        message = f"--model: {args.model!r} failed at its first picture: {failure}"
        print(f"pyxai-fast: error: {message}", file=sys.stderr, flush=True)
        answered = False
    elif not answered:
        print("pyxai-fast: error: stopped before all was answered", file=sys.stderr, flush=True)
    if not app.service.close(drain=False, timeout=0.0):
        os._exit(0 if answered else 1)  # a model at work can be neither interrupted nor torn down
    return 0 if answered else 1


def _serve_on_ray(args: argparse.Namespace, request: MethodRequest) -> int:
    from pyxai_fast.serving.on_ray import serve_until_stopped

    name = args.name or name_of(request.model)
    answered = serve_until_stopped(
        partial(_app, args, request),
        name,
        host=args.host,
        port=args.port,
        replicas=args.replicas,
        gpus=args.gpus,
        # What may come in, be decoded, wait and be computed: more, the replica refuses by itself.
        max_ongoing=args.max_connections + 2 * args.max_queue + args.max_batch,
        max_queue=args.max_queue,
        seconds=args.timeout_s,
        drain_seconds=args.drain_s,
    )
    if not answered:
        print("pyxai-fast: error: stopped before all was answered", file=sys.stderr, flush=True)
    return 0 if answered else 1


def _app(args: argparse.Namespace, request: MethodRequest) -> ServingApp:
    """Loads the model; on Ray, in each replica."""
    from pyxai_fast.cli_explainer import picture_explainer
    from pyxai_fast.cli_images import choose_device
    from pyxai_fast.serving.app import ServingApp
    from pyxai_fast.serving.limits import Limits
    from pyxai_fast.serving.service import Service

    methods = None
    if args.methods is not None:
        methods = [] if args.methods == "none" else args.methods.split(",")
    explainer = picture_explainer(request, choose_device(request.device))
    service = Service(
        explainer,
        args.name or name_of(request.model),
        methods=methods,
        max_batch=args.max_batch,
        max_wait=args.max_wait_ms / 1000.0,
        max_queue=args.max_queue,
    )
    limits = Limits(
        body=int(args.max_body_mb * 2**20),
        pixels=args.max_pixels,
        pixels_decoded=max(Limits.pixels_decoded, 4 * args.max_pixels),
        requests=args.max_queue,
        seconds=args.timeout_s,
        body_seconds=args.body_timeout_s,
        work=args.max_work,
        connections=args.max_connections,
    )
    return ServingApp(service, limits, _hosts(args.host, args.allowed_hosts))


def _hosts(host: str, allowed: str | None) -> list[str] | None:
    """The names that a server may be called by; None for any."""
    if allowed is not None:
        return None if allowed == "*" else allowed.split(",")
    shown = f"[{host}]" if ":" in host else host
    here = ["localhost", "127.0.0.1", "[::1]"]
    # Who listens to other machines too cannot know what they call this one.
    return list(dict.fromkeys([*here, shown])) if shown in here or _is_loopback(host) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(model: str) -> str:
    """A name for addresses, from what a model is loaded from: its last word."""
    words = re.split(r"[/:\\]", model.rstrip("/"))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words[-1]).strip("-.") or "model"


def _log(*, quiet: bool) -> None:
    """Lines of JSON for requests, plain ones for the rest, on the standard error."""
    for logger in (logging.getLogger("pyxai_fast.serving"), logging.getLogger("uvicorn.error")):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    if not quiet:
        logging.getLogger("pyxai_fast.serving.access").setLevel(logging.INFO)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise argparse.ArgumentTypeError(
            f"must be letters, digits, dots, hyphens and underscores, got {text!r}"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value if math.isfinite(value) else -1.0


def _positive(text: str) -> float:
    if _number(text) <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return _number(text)


def _not_negative(text: str) -> float:
    if _number(text) < 0:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return _number(text)

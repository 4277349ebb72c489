"""A model behind HTTP answers as the model itself, and every fault is one clear error."""

from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_server import ModelServer
from nets import conv_net, mlp

from pyxai_fast import BlackBox, LikelihoodRatio, QueryError, explain
from pyxai_fast.models.endpoint import Endpoint
from pyxai_fast.models.endpoint.address import parse_address
from pyxai_fast.models.endpoint.open_inference_v2 import _from_bytes, _to_bytes
from pyxai_fast.models.endpoint.retry import Retry, seconds_until
from pyxai_fast.models.endpoint.secrets import read_headers
from pyxai_fast.models.query_error import BudgetExceeded

pytest.importorskip("httpx", reason="httpx is not installed")

QUICK = {"backoff": 0.001, "timeout": 5.0}
PROTOCOLS = ["v1", "v2-json", "v2-binary"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def net() -> Any:
    return conv_net()


@pytest.fixture
def server(net: Any) -> Iterator[ModelServer]:
    with ModelServer(net) as running:
        yield running


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def connect(server: ModelServer, protocol: str = "v1", **options: Any) -> BlackBox:
    if protocol == "v1":
        return BlackBox.from_url(server.v1, **{**QUICK, **options})
    encoding = protocol.removeprefix("v2-")
    return BlackBox.from_url(server.v2, **{**QUICK, "encoding": encoding, **options})


# ---------------------------------------------------------------- the answers are the model's


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_are_those_of_the_model_in_the_order_of_the_rows(
    server: ModelServer, net: Any, x: torch.Tensor, protocol: str
) -> None:
    # The first requests take longest, so that answers come back in the wrong order.
    server.seconds = lambda number: 0.05 / number
    with connect(server, protocol, rows_per_request=3) as box:
        answer = box(x.requires_grad_())
        assert not answer.requires_grad
        assert answer.dtype == (torch.float64 if protocol == "v1" else torch.float32)
        torch.testing.assert_close(answer.float(), net(x).detach(), rtol=1e-6, atol=1e-6)
        assert sorted(shape[0] for shape in server.received) == [1, 3, 3, 3]
        assert box.queries == server.rows == 10
        binary = "Inference-Header-Content-Length" in server.headers[0]
        assert binary == (protocol == "v2-binary")


def test_an_endpoint_of_one_s_own_is_a_source_like_any(
    server: ModelServer, net: Any, x: Any
) -> None:
    with BlackBox(Endpoint(server.v1, budget=10, **QUICK)) as box:
        torch.testing.assert_close(box(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)
        assert (box.budget, box.remaining) == (10, 0)
        with pytest.raises(ValueError, match="budget must be given to the Endpoint itself"):
            BlackBox(box._source, budget=3)


def test_bytes_are_sent_where_the_server_says_that_it_takes_them(net: Any, x: Any) -> None:
    for binary in (True, False):
        with ModelServer(net, binary=binary) as server, connect(server, "v2-auto") as box:
            torch.testing.assert_close(box(x), net(x).detach(), rtol=1e-6, atol=1e-6)
            assert ("Inference-Header-Content-Length" in server.headers[0]) == binary


def test_no_more_requests_are_in_flight_than_allowed(server: ModelServer, x: Any) -> None:
    server.seconds = 0.02
    with connect(server, rows_per_request=1, concurrency=3) as box:
        threads = [threading.Thread(target=box, args=(x,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.most_at_once == 3
    assert box.queries == server.rows == 20


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (lambda rows: [{"logits": row} for row in rows], {}),
        (lambda rows: [{"scores": row, "label": "cat"} for row in rows], {}),
        (lambda rows: {"logits": rows}, {}),
        (lambda rows: [{"deep": row} for row in rows], {"select_output": "deep"}),
        (lambda rows: [[row, 1] for row in rows], {"select_output": lambda row: row[0]}),
    ],
)
def test_v1_predictions_may_be_dicts(net: Any, x: Any, wrap: Any, options: Any) -> None:
    with ModelServer(net, wrap=wrap) as server, connect(server, **options) as box:
        torch.testing.assert_close(box(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)


def test_v1_probabilities_are_taken_for_what_they_are_or_warned_of(net: Any, x: Any) -> None:
    def wrap(rows: Any) -> Any:
        return [{"probabilities": torch.tensor(row).softmax(0).tolist()} for row in rows]

    with ModelServer(net, wrap=wrap) as server:
        with connect(server, answers="probabilities") as box, warnings.catch_warnings():
            warnings.simplefilter("error")
            expected = net(x).detach().log_softmax(1)
            torch.testing.assert_close(box(x).float(), expected, rtol=1e-5, atol=1e-5)
        with connect(server) as box, pytest.warns(UserWarning, match="answers='probabilities'"):
            box(x)


def test_v1_predictions_that_are_unknown_dicts_say_what_they_have(net: Any, x: Any) -> None:
    with (
        ModelServer(net, wrap=lambda rows: [{"a": 1} for _ in rows]) as server,
        connect(server) as box,
        pytest.raises(QueryError, match=r"has a \(select_output="),
    ):
        box(x)


def test_several_inputs_are_sent_by_name() -> None:
    def model(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.stack([a.sum(1), b.sum(1)], 1)

    a, b = torch.rand(5, 4), torch.rand(5, 4)
    with ModelServer(model, names=("a", "b"), datatypes=("FP32", "FP32"), shape=(-1, 4)) as server:
        for protocol in PROTOCOLS:
            with connect(server, protocol, rows_per_request=2, input_names=["a", "b"]) as box:
                torch.testing.assert_close(box(a, b).float(), model(a, b), rtol=1e-6, atol=1e-6)
        with connect(server) as box, pytest.raises(ValueError, match="input_names must name the 2"):
            box(a, b)
        with (
            connect(server, "v2-json") as box,
            pytest.raises(ValueError, match="must be a, b, got"),
        ):
            box(a)


def test_a_uint8_model_gets_whole_grey_levels(net: Any) -> None:
    with ModelServer(net, datatypes=("UINT8",)) as server:
        for protocol in ("v2-json", "v2-binary"):
            with connect(server, protocol) as box:
                assert box.grey_level == 1.0
                box(torch.full((2, 3, 4, 4), 300.0).index_fill(0, torch.tensor(1), 2.5))
                assert server.inputs[-1].dtype == np.uint8
                assert np.unique(server.inputs[-1]).tolist() == [2, 255]
        with (
            connect(server, "v2-json", dtype="float32") as box,
            pytest.raises(ValueError, match="whole numbers for UINT8"),
        ):
            box(torch.full((1, 3, 4, 4), 0.5))


def test_a_fixed_batch_is_filled_up_and_counted(net: Any, x: Any) -> None:
    with ModelServer(net, shape=(4, 3, 4, 4)) as server, connect(server, "v2-auto") as box:
        torch.testing.assert_close(box(x), net(x).detach(), rtol=1e-6, atol=1e-6)
        assert {shape[0] for shape in server.received} == {4}
        assert box.queries == server.rows == 12


def test_v2_checks_shapes_before_it_sends(server: ModelServer) -> None:
    with connect(server, "v2-auto") as box:
        with pytest.raises(ValueError, match=r"must have the shape \[-1, 3, 4, 4\], got \[1, 3, 5"):
            box(torch.rand(1, 3, 5, 4))
        with pytest.raises(ValueError, match="must be tensors with 1 rows, got str"):
            box(torch.rand(1, 3, 4, 4), "argument")
    assert box.queries == server.rows == 0 and box.remaining is None


def test_v2_without_a_description_needs_the_names(net: Any, x: Any) -> None:
    with ModelServer(net, described=False) as server:
        with pytest.raises(QueryError, match=r"404.*unknown model.*check the address"):
            connect(server, "v2-auto")
        with connect(server, "v2-auto", input_names="x") as box:
            torch.testing.assert_close(box(x), net(x).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("protocol", ["v1", "v2-json"])
def test_json_cannot_carry_nan_and_says_so(server: ModelServer, x: Any, protocol: str) -> None:
    x[3, 0, 0, 0] = float("inf")
    with (
        connect(server, protocol) as box,
        pytest.raises(ValueError, match="finite to be sent as JSON, got inf in row 3"),
    ):
        box(x)
    assert server.rows == 0


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    values = torch.cat([torch.randn(500) * 10.0 ** torch.randint(-8, 8, (500,)), torch.zeros(1)])
    ours = _from_bytes(_to_bytes(values.numpy(), "BF16"), "BF16")
    assert np.array_equal(ours, values.bfloat16().float().numpy())


# ---------------------------------------------------------------- faults that pass


@pytest.mark.parametrize("fault", ["429", "502", "503", "504", "drop", "cut"])
@pytest.mark.parametrize("protocol", ["v1", "v2-binary"])
def test_faults_that_pass_are_repeated_and_counted(
    server: ModelServer, net: Any, x: Any, fault: str, protocol: str
) -> None:
    server.faults.extend([fault, "", fault])
    with connect(server, protocol, rows_per_request=5) as box:
        torch.testing.assert_close(box(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)
    assert box.queries == server.rows == 20


@pytest.mark.parametrize("fault", ["503", "drop", "cut"])
def test_faults_that_stay_end_after_the_repetitions(
    server: ModelServer, x: Any, fault: str
) -> None:
    server.always = fault
    with (
        connect(server, rows_per_request=10, retries=2) as box,
        pytest.raises(QueryError, match=r"tried 3 times.*30 queries are spent") as caught,
    ):
        box(x)
    assert caught.value.spent == box.queries == server.rows == 30
    assert server.v1 in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: ModelServer, x: Any, form: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)
    server.retry_after = "0.2" if form == "seconds" else date
    server.faults.append("429")
    with connect(server) as box:
        started = time.monotonic()
        box(x)
        assert time.monotonic() - started > 0.15
    assert server.rows == 20


def test_waits_double_up_to_a_limit_and_make_no_sense_of_nonsense() -> None:
    retry = Retry(retries=3, backoff=1.0, longest=30.0)
    for attempt, most in enumerate((1, 2, 4, 8, 16, 30, 30)):
        waits = [retry.wait(attempt, None) for _ in range(20)]
        assert (most / 2 <= min(waits) <= max(waits) <= most and len(set(waits)) > 1) or most == 30
    assert retry.wait(0, "3600") == 30.0
    for nonsense in ("soon", "", "-5", "Mon, 99 Foo 2020"):
        assert seconds_until(nonsense) == 0.0


def test_a_slow_server_is_a_time_out(server: ModelServer, x: Any) -> None:
    server.seconds = 2.0
    with (
        connect(server, timeout=0.4, retries=1) as box,
        pytest.raises(QueryError, match=r"no answer within 0\.4 s, tried 2 times") as caught,
    ):
        box(x)
    assert caught.value.spent == server.rows == 20


def test_a_server_that_is_not_there_costs_nothing(server: ModelServer, x: Any) -> None:
    box = connect(server, retries=1, budget=100)
    server.stop()
    with box, pytest.raises(QueryError, match=r"no connection.*tried 2 times.*0 queries") as caught:
        box(x)
    assert caught.value.spent == 0 and box.remaining == 100
    with pytest.raises(QueryError, match="no connection"):
        connect(server, "v2-auto", retries=0)


# ---------------------------------------------------------------- faults that do not


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "HTTP 500 Internal Server Error: the model fell over"),
        ("401", "HTTP 401.*give headers="),
        ("413", "HTTP 413.*lower rows_per_request"),
        ("302", "HTTP 302"),
        ("garbage", "the answer is not JSON: '<html>busy</html>'"),
        ("rows", r"10 rows were asked, and the answer has the shape \[9, 5\]"),
        ("null", "one is null"),
    ],
)
@pytest.mark.parametrize("protocol", ["v1", "v2-json"])
def test_faults_that_stay_are_errors_at_once(
    server: ModelServer, x: Any, fault: str, message: str, protocol: str
) -> None:
    server.always = fault
    with connect(server, protocol) as box, pytest.raises(QueryError, match=message) as caught:
        box(x)
    assert caught.value.spent == box.queries == server.rows == 10
    assert "\n" not in str(caught.value) and "10 queries are spent" in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "fault", "message"),
    [
        ("v1", "empty", "must have 'predictions', and has nothing"),
        ("v1", "text", "must be numbers, and one is .*cat"),
        ("v1", "ragged", "must be lists of one length"),
        ("v2-json", "empty", "must have 'outputs', and has nothing"),
        ("v2-binary", "empty", "must have 'outputs', and has nothing"),
        ("v2-binary", "short", "must have 200 bytes, and has 196"),
        ("v2-binary", "rows", r"10 rows were asked, and the answer has the shape \[9, 5\]"),
    ],
)
def test_answers_that_make_no_sense_are_named(
    server: ModelServer, x: Any, protocol: str, fault: str, message: str
) -> None:
    server.always = fault
    with connect(server, protocol) as box, pytest.raises(QueryError, match=message) as caught:
        box(x)
    assert caught.value.spent == box.queries == server.rows == 10


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nan_is_named_with_its_row(server: ModelServer, x: Any, protocol: str) -> None:
    server.faults.extend(["", "nan"])
    with (
        connect(server, protocol, rows_per_request=5, concurrency=1) as box,
        pytest.raises(QueryError, match="answer to row 9 holds nan") as caught,
    ):
        box(x)
    assert caught.value.spent == server.rows == 10


def test_a_change_of_shape_is_named(server: ModelServer, x: Any) -> None:
    server.faults.extend(["", "shape"])
    with (
        connect(server, rows_per_request=5, concurrency=1) as box,
        pytest.raises(QueryError, match=r"shape \[2\], and with \[5\] before"),
    ):
        box(x)


def test_a_failure_ends_everything_and_sends_nothing_new(server: ModelServer, x: Any) -> None:
    server.seconds = lambda number: 0.1 if number > 1 else 0.0
    server.faults.append("500")
    with connect(server, rows_per_request=1, concurrency=2) as box:
        with pytest.raises(QueryError, match="HTTP 500") as caught:
            box(x)
        time.sleep(0.15)
        assert server.rows == 2  # the one that failed and the one in flight
        assert caught.value.spent == box.queries == 2
        box(x)  # and it goes on when asked again
    assert box.queries == server.rows == 12


def test_a_server_that_goes_down_mid_run_costs_what_it_got(server: ModelServer, x: Any) -> None:
    server.faults.extend(["", "", "down"])
    with (
        connect(server, rows_per_request=1, concurrency=2, retries=2, budget=50) as box,
        pytest.raises(QueryError, match=r"tried [123] times") as caught,
    ):
        box(x)
    assert server.rows >= 3
    assert caught.value.spent == box.queries >= server.rows
    assert box.remaining == 50 - box.queries


# ---------------------------------------------------------------- the budget


def test_nothing_is_sent_that_the_budget_does_not_cover(server: ModelServer, x: Any) -> None:
    with connect(server, budget=15) as box:
        box(x)
        with pytest.raises(BudgetExceeded, match=r"10 more queries.*budget of 15 has 5 left"):
            box(x)
        assert server.rows == box.queries == 10 and box.remaining == 5
        box(x[:5])
    assert server.rows == box.queries == 15 and box.remaining == 0


@pytest.mark.parametrize("fault", ["503", "drop", "cut"])
def test_repetitions_keep_to_the_budget(server: ModelServer, x: Any, fault: str) -> None:
    server.always = fault
    with (
        connect(server, rows_per_request=2, concurrency=4, budget=13) as box,
        pytest.raises(BudgetExceeded, match="to repeat a request") as caught,
    ):
        box(x)
    assert server.rows <= caught.value.spent == box.queries <= 13


def test_threads_share_a_budget(server: ModelServer, x: Any) -> None:
    server.faults.extend(["", "503"] * 20)
    refused: list[BudgetExceeded] = []

    def work(box: BlackBox) -> None:
        try:
            box(x)
        except BudgetExceeded as error:
            refused.append(error)

    with connect(server, rows_per_request=3, concurrency=4, budget=37) as box:
        threads = [threading.Thread(target=work, args=(box,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused
        assert server.rows <= box.queries <= 37
        assert box.remaining == 37 - box.queries


# ---------------------------------------------------------------- what was answered is kept


def test_a_rerun_repeats_nothing_that_was_answered(net: Any, x: Any, tmp_path: Any) -> None:
    file = tmp_path / "answers.sqlite"
    with ModelServer(net) as server:
        server.faults.extend(["", "", "", "500"])
        with connect(server, rows_per_request=2, concurrency=1, cache=file) as box:
            with pytest.raises(QueryError):
                box(x)
            assert server.rows == 8
        with connect(server, rows_per_request=2, concurrency=1, cache=file) as box:
            torch.testing.assert_close(box(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)
            assert box.queries == 4 and server.rows == 12
            box(x.flip(0))
            assert box.queries == 4


def test_answers_in_flight_when_another_fails_are_kept(server: ModelServer, x: Any) -> None:
    server.seconds = lambda number: 0.1 if number == 1 else 0.0
    server.faults.extend(["", "500"])
    with connect(server, rows_per_request=5, concurrency=2, cache=True) as box:
        with pytest.raises(QueryError):
            box(x)
        assert box.cache is not None and len(box.cache) == 5


# ---------------------------------------------------------------- life


def test_an_interrupt_stops_at_once_and_the_box_can_be_used_again(
    server: ModelServer, net: Any, x: Any
) -> None:
    server.seconds = 0.5
    # Programs in the background are started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with connect(server, rows_per_request=1, concurrency=2) as box:
            main = threading.get_ident()

            def interrupt() -> None:
                while server.rows < 2:  # both places are taken
                    time.sleep(0.01)
                signal.pthread_kill(main, signal.SIGINT)

            started = time.monotonic()
            threading.Thread(target=interrupt, daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                box(x)
            # All ten rows would have taken five times as long as one.
            assert time.monotonic() - started < 5 * server.seconds
            assert box.queries == server.rows == 2
            server.seconds = 0.0
            torch.testing.assert_close(box(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)
    finally:
        signal.signal(signal.SIGINT, before)


def test_closed_boxes_open_again_and_copies_work(server: ModelServer, net: Any, x: Any) -> None:
    box = connect(server, "v2-auto", budget=25)
    box(x)
    box.close()
    box.close()
    copy = pickle.loads(pickle.dumps(box))
    assert copy.queries == 10
    for each in (box, copy):
        torch.testing.assert_close(each(x), net(x).detach(), rtol=1e-6, atol=1e-6)
        assert each.queries == 20
        each.close()


def test_boxes_that_nobody_closes_leave_no_thread(server: ModelServer, x: Any) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if "pyxai_fast" in thread.name]

    box = connect(server)
    box(x)
    (thread,) = threads()
    del box
    gc.collect()
    thread.join(2.0)
    assert not threads()


def test_a_program_ends_although_its_box_is_open(server: ModelServer) -> None:
    code = (
        "import torch; from pyxai_fast import BlackBox\n"
        f"box = BlackBox.from_url({server.v1!r}); print(box(torch.rand(2, 3, 4, 4)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch.Size([2, 5])" in done.stdout


def test_a_box_is_used_inside_a_running_event_loop(server: ModelServer, x: Any) -> None:
    import asyncio

    async def notebook() -> torch.Tensor:
        with connect(server) as box:
            return box(x)

    assert asyncio.run(notebook()).shape == (10, 5)


def test_a_table_model_is_explained_like_its_own_module() -> None:
    net = mlp(features=4, classes=3)
    x = torch.rand(6, 4)
    with ModelServer(net, shape=(-1, 4)) as server, connect(server, "v2-auto") as box:
        torch.testing.assert_close(box(x), net(x).detach(), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- explanations


def test_a_server_is_explained_by_its_answers(server: ModelServer, net: Any, x: Any) -> None:
    gradient = LikelihoodRatio(n_samples=64, sigma=0.2, seed=0)
    with connect(server, "v2-auto", budget=200) as box:
        ours = explain(box, x[:2], method="saliency", gradient=gradient, target=1)
        assert ours.cost.queries == box.queries == server.rows <= 200
    own = explain(net, x[:2], method="saliency", gradient=gradient, target=1)
    torch.testing.assert_close(ours.attributions, own.attributions, rtol=1e-4, atol=1e-5)


def test_an_explanation_goes_on_where_a_failure_left_it(
    server: ModelServer, net: Any, x: Any, tmp_path: Any
) -> None:
    gradient = LikelihoodRatio(n_samples=64, sigma=0.2, seed=0)

    def run() -> Any:
        with connect(server, rows_per_request=8, cache=tmp_path / "answers.sqlite") as box:
            return explain(box, x[:2], method="saliency", gradient=gradient, target=1)

    server.faults.extend([""] * 9)
    server.always = "500"
    with pytest.raises(QueryError, match="HTTP 500") as caught:
        run()
    assert caught.value.spent == server.rows > server.answered > 60
    server.always = ""
    ours = run()
    assert server.answered == ours.cost.queries  # every row once
    own = explain(net, x[:2], method="saliency", gradient=gradient, target=1)
    torch.testing.assert_close(
        ours.attributions, own.attributions, rtol=1e-4, atol=1e-5, check_dtype=False
    )


# ---------------------------------------------------------------- secrets


def test_headers_are_sent_and_never_shown(server: ModelServer, x: Any) -> None:
    secret = "swordfish-123"
    server.message = f"bad token {secret} for /predict?key=opensesame of user:hunter2"
    url = server.v1.replace("http://", "http://user:hunter2@") + "?key=opensesame"
    headers = {"X-Api-Key": f"Bearer {secret}"}
    with BlackBox.from_url(url, headers=headers, retries=0, **QUICK) as box:
        box(x)
        assert server.headers[0]["X-Api-Key"] == f"Bearer {secret}"
        assert server.headers[0]["Authorization"].startswith("Basic ")
        server.always = "401"
        with pytest.raises(QueryError, match="bad token") as caught:
            box(x)
        texts = [repr(box), str(caught.value), repr(caught.value), repr(box._source), box.name]
        server.stop()
        with pytest.raises(QueryError) as caught:
            box(x)
        texts.append(str(caught.value))
    for text in texts:
        assert not any(word in text for word in (secret, "hunter2", "opensesame"))


def test_headers_that_cannot_be_sent_are_refused_by_name(server: ModelServer) -> None:
    with pytest.raises(TypeError, match="headers must be ASCII, the one named 'X-Key' is not") as e:
        BlackBox.from_url(server.v1, headers={"X-Key": "sw\u00f6rdfish"})
    assert "rdfish" not in str(e.value)


def test_answers_of_different_outputs_and_versions_are_not_mixed(
    server: ModelServer, x: Any, tmp_path: Path
) -> None:
    cache = str(tmp_path / "answers.sqlite")
    with pytest.raises(ValueError, match="cache"):
        BlackBox.from_url(server.v1, cache=cache, select_output=lambda prediction: prediction)
    with BlackBox.from_url(server.v1, cache=cache, **QUICK) as box:
        box(x)
    with BlackBox.from_url(server.v1 + "?version=2", cache=cache, **QUICK) as box:
        box(x)
    assert server.rows == 2 * len(x)
    with BlackBox.from_url(server.v1, cache=cache, **QUICK) as box:
        box(x)
    assert server.rows == 2 * len(x)


def test_secrets_come_from_the_environment_or_a_file(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc\n")
    assert read_headers("MY_TOKEN") == {"Authorization": "Bearer abc"}
    file = tmp_path / "headers"
    for text in ('{"X-Key": "k", "Y": "z"}', "X-Key: k\n\nY: z\n"):
        file.write_text(text)
        assert read_headers(headers_file=str(file)) == {"X-Key": "k", "Y": "z"}
    for text in ("swordfish", '{"X": 1}', '{"X"'):
        file.write_text(text)
        with pytest.raises(ValueError, match="headers_file must hold") as caught:
            read_headers(headers_file=str(file))
        assert "swordfish" not in str(caught.value)
    with pytest.raises(ValueError, match="token_env must name"):
        read_headers("NOT_SET_ANYWHERE")


# ---------------------------------------------------------------- addresses and options


@pytest.mark.parametrize(
    ("url", "ask", "model"),
    [
        ("http://h/v1/models/m:predict", "http://h/v1/models/m:predict", "http://h/v1/models/m"),
        (
            "https://h:8/a/v1/models/m",
            "https://h:8/a/v1/models/m:predict",
            "https://h:8/a/v1/models/m",
        ),
        ("http://h/v2/models/m/infer", "http://h/v2/models/m/infer", "http://h/v2/models/m"),
        (
            "http://h/p/v2/models/m/versions/3/infer",
            "http://h/p/v2/models/m/versions/3/infer",
            "http://h/p/v2/models/m/versions/3",
        ),
        ("http://h/v2/models/m?k=1", "http://h/v2/models/m/infer?k=1", "http://h/v2/models/m?k=1"),
    ],
)
def test_the_path_says_which_protocol(url: str, ask: str, model: str) -> None:
    address = parse_address(url)
    assert (address.ask, address.model) == (ask, model)
    assert address.protocol == ("v1" if "/v1/" in url else "v2")


@pytest.mark.parametrize(
    "url", ["http://h", "http://h/", "http://h/predict", "ftp://h/v1/models/m", "h/v2/models/m", ""]
)
def test_other_addresses_are_refused_with_the_two_forms(url: str) -> None:
    with pytest.raises(ValueError, match=r"/v1/models/NAME:predict or .*/v2/models/NAME/infer"):
        BlackBox.from_url(url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_request": 0}, "rows_per_request must be at least 1"),
        ({"concurrency": "4"}, "concurrency must be at least 1"),
        ({"timeout": 0}, "timeout must be seconds above 0"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"backoff": float("nan")}, "backoff must be seconds"),
        ({"encoding": "xml"}, "encoding must be auto, json or binary"),
        ({"encoding": "binary"}, "must be json for a v1 address"),
        ({"answers": "classes"}, "answers must be logits or probabilities"),
        ({"budget": 1.5}, "budget must be a whole number"),
        ({"headers": {"X": 3}}, "one named 'X' is not"),
        ({"select_output": 3}, "select_output must be a name or a function"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BlackBox.from_url("http://127.0.0.1:9/v1/models/m:predict", **options)


def test_names_that_the_server_does_not_describe_are_refused(server: ModelServer) -> None:
    with pytest.raises(ValueError, match="input_names must be among those of the model, x, got z"):
        connect(server, "v2-auto", input_names=["z"])
    with pytest.raises(ValueError, match="select_output must be among the model's outputs, y"):
        connect(server, "v2-auto", select_output="z")

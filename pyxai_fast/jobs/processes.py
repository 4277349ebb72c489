"""Processes beside this one: how they begin and end, and one that what it does may end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def process_context() -> Any:
    """Of multiprocessing: processes that are started afresh.

    Not by fork: this process has threads, whose locks a copy would wait for in vain.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # torch is then imported once, and not by every process.
        context.set_forkserver_preload([f"{__package__}.reading"])
    return context


def end_with_parent(number: int = 0) -> None:
    """Ends this process when the one that it works for is killed. DataLoader itself only looks for
    the fork server, which waits for this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


class ProcessEndedError(Exception):
    """A call ended the process that it was made in.

    Attributes:
        code: that it ended with; of a signal, less its number.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"ended with {code}")
        self.code = code


class ThrowawayProcess(Generic[_Argument, _Result]):
    """Calls a function in a process of its own; after a call that ends it, in a new one.

    Args:
        function: of one argument; it, what it takes and what it returns can be pickled.
    """

    def __init__(self, function: Callable[[_Argument], _Result]) -> None:
        self._function = function
        self._running: tuple[BaseProcess, Connection] | None = None

    def __call__(self, argument: _Argument) -> _Result:
        """The function's result.

        Raises:
            ProcessEndedError: the call ended the process, or something else did meanwhile.
            RuntimeError: no process can be started.
        """
        connection = self._connected()
        try:
            connection.send(argument)
            data = connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise ProcessEndedError(self.end()) from error
        result: _Result = pickle.loads(data)
        return result

    def end(self) -> int:
        """Ends the process, if nothing has; gives what it ended with."""
        if self._running is None:
            return 0
        process, connection = self._running
        self._running = None
        connection.close()
        process.join()
        return process.exitcode or 0

    def _connected(self) -> Connection:
        if self._running is not None:
            return self._running[1]
        context = process_context()
        ours: Connection
        theirs: Connection
        ours, theirs = context.Pipe()
        process = context.Process(target=_call, args=(self._function, theirs), daemon=True)
        process.start()
        theirs.close()
        self._running = process, ours
        try:
            ours.recv_bytes()
        except (EOFError, OSError) as error:
            code = self.end()
            raise RuntimeError(f"a process cannot be started: it ended with {code}") from error
        return ours


def _call(function: Callable[[Any], Any], connection: Connection) -> None:
    """What the process does: tells that it is there, and then what the function returns."""
    end_with_parent()
    torch.set_num_threads(1)
    connection.send_bytes(b"")
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        # As bytes: what torch shares has to be fetched while this process lives.
        connection.send_bytes(pickle.dumps(function(argument)))

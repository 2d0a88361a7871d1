"""The path of an ordinary call: one input, one output, one row, and nothing wrong with it.

What it does to an inference is a fixed number of Python steps and four or five calls into numpy. Whatever
does not pass is handed over, with the model's answer, to the guard's longer path, which finds out what is
wrong. Both come to the same verdict on every row (a test compares them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.block_buffer import RowLayout, TensorLayout
from driftpost_agent.calls import Calls
from driftpost_agent.frozen import FrozenWatch
from driftpost_agent.input_checks import TensorCheck
from driftpost_agent.meter import Channel
from driftpost_agent.output_checks import OutputCheck
from driftpost_agent.recorder import Recorder
from driftpost_agent.row_check import RowCheck
from driftpost_agent.verdict import OK, GuardedResult
from driftpost_models.errors import InferenceFailed, RuntimeCrashed
from driftpost_models.probes.decimation import Decimation
from driftpost_models.runtime import TensorSpec

# Bytes of a tensor up to which all of it is copied on this path; larger ones only where they are decimated.
SMALL_TENSOR_BYTES = 4096
# One call in so many is timed as a whole. A prime, so that it does not fall into step with full blocks.
TIMED_EVERY = 61

Ask = Callable[[NDArray[Any]], NDArray[Any]]
# Takes over: inputs, the outputs or why there are none, nanoseconds in the model, the inference's name.
HandOver = Callable[
    [Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]] | Exception, int, str], GuardedResult
]

_new_tuple: Callable[..., GuardedResult] = tuple.__new__


class QuickPath:
    """Guards calls of one tensor of a fixed shape.

    Args:
        given: the model's only input.
        answer: its only output.
        how: rows of the input are decimated, None where they are recorded whole.
        ask: calls the model.
        input_check: of the input.
        output_check: of the output.
        frozen: shared with the longer path, used while holding the recorder's `appending`.
        recorder: takes the rows.
        calls: gets the end of each call, under the same lock.
        channel: gets counts, under the same lock.
        prefix: of inferences' names.
        hand_over: for everything out of the ordinary; it does not end the call.

    Attributes:
        layout: of the rows as they are recorded.
        shape: of the input of a single row.
    """

    def __init__(
        self,
        given: TensorSpec,
        answer: TensorSpec,
        *,
        how: Decimation | None,
        ask: Ask,
        input_check: TensorCheck,
        output_check: OutputCheck,
        frozen: FrozenWatch,
        recorder: Recorder,
        calls: Calls,
        channel: Channel,
        prefix: str,
        hand_over: HandOver,
    ) -> None:
        self.name, self._answer_name = given.name, answer.name
        self.shape = _one_row(given)
        self.dtype = given.dtype
        self._answer_shape = _one_row(answer)
        self._how = how
        self._ask = ask
        self._frozen = frozen
        self._recorder = recorder
        self._lock = recorder.appending
        self._calls = calls
        self._channel = channel
        self._prefix = prefix + "-"
        self._hand_over = hand_over
        kept = self.shape[given.batched :] if how is None else how.shape
        self.layout = RowLayout(
            (TensorLayout(given.name, kept, given.dtype, how),),
            (TensorLayout(answer.name, self._answer_shape[answer.batched :], answer.dtype),),
        )
        # What one comparison of float32 values can judge, and what needs a check of its own.
        together = [given.dtype == np.float32 and how is None, answer.dtype == np.float32]
        ranges = [input_check.range_of_row(math.prod(self.shape)), OutputCheck.range_of(self._answer_shape)]
        self._judges_input, self._judges_answer = together
        self._row_check = RowCheck([bounds for bounds, one in zip(ranges, together, strict=True) if one])
        self._input_check = input_check
        self._separate = input_check.separate(math.prod(self.shape), judged=together[0])
        self._examine = None if together[1] and not output_check.scored else output_check.examine

    def run(self, tensor: NDArray[Any], inference_id: str, number: int) -> GuardedResult:
        """One guarded call, which has begun already and is ended here."""
        started = perf_counter_ns() if number % TIMED_EVERY == 1 else 0
        ended = False
        try:
            if self._how is None:
                raw = tensor.tobytes()
                good = not self._separate or self._input_check.passes(tensor.reshape(1, -1))
            else:
                kept = self._how.take(tensor)
                raw = kept.tobytes()
                good = self._input_check.decimated_passes(tensor, kept, raw)
            before = perf_counter_ns()
            try:
                answer = self._ask(tensor)
            except (InferenceFailed, RuntimeCrashed) as error:
                spent = perf_counter_ns() - before
                return self._hand_over({self.name: tensor}, error, spent, self._named(inference_id, number))
            spent = perf_counter_ns() - before
            if good and answer.shape == self._answer_shape:
                if self._examine is not None:
                    good = self._examine({self._answer_name: answer}, 1) is None
                said = answer.tobytes()
                judged = said if self._judges_answer else b""
                if self._judges_input:
                    judged = raw + judged
                lock, frozen = self._lock, self._frozen
                # `with` costs twice as much as these calls.
                lock.acquire()
                try:
                    if good and raw != frozen.last and self._row_check.passes(judged):
                        frozen.begin(raw)
                        full = self._recorder.append_pair(self.layout, raw, said, spent / 1000)
                        channel, calls = self._channel, self._calls
                        channel.ok += 1
                        channel.model_ns += spent
                        if started:
                            channel.timed += 1
                            channel.timed_ns += perf_counter_ns() - started - spent
                        ended = True
                        calls.ended += 1
                        if calls.closed:
                            calls.notify()
                finally:
                    lock.release()
                if ended:
                    if full:
                        self._recorder.look_after_full()
                    name = inference_id or self._prefix + str(number)
                    return _new_tuple(GuardedResult, ({self._answer_name: answer}, OK, name, 1, ""))
            outputs = {self._answer_name: answer}
            return self._hand_over({self.name: tensor}, outputs, spent, self._named(inference_id, number))
        finally:
            if not ended:
                self._calls.end()

    def _named(self, inference_id: str, number: int) -> str:
        return inference_id or self._prefix + str(number)


def _one_row(spec: TensorSpec) -> tuple[int, ...]:
    """Shape of a tensor of one row; without free dimensions but the first."""
    return tuple(1 if size is None else size for size in spec.shape)

"""The guard: checks an inference's inputs and outputs, gives its verdict, and records it.

    with Guard.open("digits.bundle", trusted=["team.pub"], store="guard.db") as guard:
        result = guard.run(image)

An ordinary call of a model with one input and one output takes the quick path (`quick_path.py`). All others,
and whatever is out of the ordinary, come here: the same checks, tensor by tensor, and what the policy makes
of them. Probes and sketches come once every few hundred rows, or in the recorder's thread.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.block_buffer import Raw
from driftpost_agent.calls import Calls
from driftpost_agent.checks import MAX_WAITING, WindowChecks
from driftpost_agent.description import description
from driftpost_agent.errors import LabelRefused
from driftpost_agent.frozen import FrozenWatch
from driftpost_agent.input_checks import TensorCheck, sampled
from driftpost_agent.label_checks import Label, LabelChecks
from driftpost_agent.meter import Meter
from driftpost_agent.output_checks import OutputCheck
from driftpost_agent.quick_path import SMALL_TENSOR_BYTES, QuickPath
from driftpost_agent.recorder import ClosedWindow, Passes, Recorder
from driftpost_agent.row_layouts import RowLayouts
from driftpost_agent.signature import Signature, Tensors, joined
from driftpost_agent.store import Store
from driftpost_agent.ticker import Ticker
from driftpost_agent.verdict import OK, GuardedResult, Reason, Status, Verdict, verdict_of
from driftpost_models.bundle import Bundle
from driftpost_models.errors import BundleUntrusted, InferenceFailed, RuntimeCrashed
from driftpost_models.giving_back import give_back
from driftpost_models.policy import Policy
from driftpost_models.probes.block import as_rows
from driftpost_models.probes.classification import Classification
from driftpost_models.runtime import Runtime, load_model, single_call
from driftpost_models.signing import PublicKey, load_public_key
from driftpost_sketches.window import Window
from driftpost_sync.clock import Clock, SystemClock
from driftpost_sync.messages import DescribeBody, WindowBody

log = logging.getLogger(__name__)

# Seconds that calls under way get to end when a guard is closed.
CLOSE_CALLS_S = 5.0

OnFailure = Callable[[Exception], None]


class _Call(NamedTuple):
    """A call with something wrong in it, for what follows from that."""

    inputs: Tensors
    rows: int
    inference_id: str
    started_ns: int
    model_ns: int


class Guard:
    """Guards one model of one bundle. `run` may be called from several threads.

    Args:
        bundle: model, baseline and policy.
        runtime: the loaded model; None loads the bundle's model into this process. Closed with the guard.
        store: where windows, findings and messages are kept: an open store, which stays the caller's, or a
            path, which the guard opens and closes. None keeps nothing but still calls `on_window`.
        fallback: answers when the policy says "fallback". Closed with the guard.
        policy: instead of the bundle's.
        clock: monotonic and wall time.
        window_seconds: instead of the policy's.
        window_rows: close a window early at this many rows.
        on_window: called with each closed window after it was recorded.
        on_failure: called when the model failed on a call.
        flush_seconds: rows are sketched at least this often by that thread.
        passes: who sketches a full block of rows: "caller", "thread" or "auto" (see `recorder.Passes`).
        progress: called after each of its rounds.
        stored: called after each round of the thread that stores windows.
        meter: counts calls; one of the guard's own if None.
        threaded: whether a thread of the guard's own closes windows in time. False leaves it to `tick`.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime | None = None,
        *,
        store: Store | Path | str | None = None,
        fallback: Runtime | None = None,
        policy: Policy | None = None,
        clock: Clock | None = None,
        window_seconds: float | None = None,
        window_rows: int | None = None,
        on_window: Callable[[ClosedWindow], None] | None = None,
        on_failure: OnFailure | None = None,
        flush_seconds: float = 1.0,
        passes: Passes | str = Passes.AUTO,
        threaded: bool = True,
        progress: Callable[[], None] = lambda: None,
        stored: Callable[[], None] = lambda: None,
        meter: Meter | None = None,
    ) -> None:
        self.bundle = bundle
        self.policy = policy or bundle.policy
        self._clock = clock or SystemClock()
        # Before the store: a refused model must not leave that claimed.
        self.runtime = runtime or load_model(bundle.model_bytes, kind=bundle.model_kind)
        self._own_store = store is not None and not isinstance(store, Store)
        self.store = Store.open(store, clock=self._clock) if isinstance(store, (str, Path)) else store
        self.fallback = fallback
        self._fallback_signature = Signature(fallback.inputs) if fallback else None
        self._signature = Signature(self.runtime.inputs)
        self._input_checks = tuple(
            TensorCheck(spec.dtype, bundle.limits.get(spec.name)) for spec in self.runtime.inputs
        )
        self._output_check = OutputCheck(self.runtime.outputs, _scores(bundle), self.policy.min_confidence)
        runs = [limits.longest_run for limits in bundle.limits.values()]
        # A row counts as repeated when all inputs repeat, so the shortest of their runs is the reference's.
        self._frozen = FrozenWatch(min(runs, default=1))
        self._actions: dict[Reason, str] = {
            reason: self.policy.action(reason.label) for reason in Reason if reason is not Reason.OK
        }
        self._layouts = RowLayouts(self.runtime.inputs, self.runtime.outputs, bundle.probes.decimation)
        self._batched = {spec.name: spec.batched for spec in self.runtime.inputs}
        self._decimation = bundle.probes.decimation
        self._on_window = on_window
        self._on_failure = on_failure
        self.meter = meter or Meter()
        # Unique over restarts and over bundles served one after the other by one process.
        self._prefix = f"{self.store.incarnation:x}-{bundle.id[:6]}" if self.store else bundle.id[:6]
        self.window_seconds = seconds = window_seconds or self.policy.window_seconds
        self._slot = self.store.row_mark.slot() if self.store else None
        self._open_window = self.store.keep_open(self._slot) if self.store and self._slot else None
        self.checks = WindowChecks(
            bundle,
            self.store,
            window_seconds=seconds,
            budget=self.policy.budget,
            clock=self._clock,
            policy=self.policy,
            background=threaded,
            kept=self._open_window,
        )
        # Closed windows that `on_window` has not been told of.
        self._closed: deque[ClosedWindow] = deque()
        self._ticker: Ticker | None = None
        self._writer: Ticker | None = None
        self.recorder = Recorder(
            bundle.probes.copy(),
            bundle.schema,
            clock=self._clock,
            window_ms=max(1, round(seconds * 1000)),
            on_window=self._window_closed,
            window_rows=window_rows,
            passes=Passes(passes) if threaded else Passes.CALLER,
            wake=self._wake,
            tally=self._slot.total if self._slot else None,
            derived=bundle.derived,
            joint=None if bundle.calibration.joint is None else bundle.calibration.joint.features,
            observe=self.checks.observe if self.checks.observes else None,
            keep=None if self._open_window is None else self._keep_open,
        )
        self._calls = Calls(self.recorder.appending)
        self._channel = self.meter.channel()
        self._quick = self._quick_path()
        if self._quick is not None:
            # Blocks are told apart by the layout itself: both paths must use the same one.
            self._layouts.answered = self._quick.layout
        scores = _scores(bundle)
        self.labels: LabelChecks | None = None
        if scores is not None and bundle.performance is not None:
            self.labels = LabelChecks(
                bundle, scores, self.store, policy=self.policy, window_seconds=seconds, clock=self._clock
            )
        self._answers = None if self.labels is None else self.labels.answers
        if threaded:
            # Two threads: rows are flushed in time also while the card takes seconds over a window.
            self._writer = Ticker(
                self._write,
                lambda: math.inf,
                interval_s=flush_seconds,
                progress=stored,
                name="driftpost-store",
            )
            self._writer.start()
            self._ticker = Ticker(
                self.recorder.tick,
                self.recorder.seconds_to_boundary,
                interval_s=flush_seconds,
                progress=progress,
            )
            self._ticker.start()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        trusted: Sequence[PublicKey | Path | str] = (),
        allow_unsigned: bool = False,
        store: Store | Path | str | None = None,
        clock: Clock | None = None,
    ) -> Guard:
        """Open a bundle, check it and guard its model in this process.

        Args:
            path: of the bundle.
            trusted: public keys, or their files; the bundle must be signed with one of them.
            allow_unsigned: take it as it is when no key is given; for trials.
            store: see the class.
            clock: see the class.

        Raises:
            BundleUntrusted: it is not signed by a trusted key, or no key was given.
            BundleError: it is damaged or too new.
            ModelRefused: the model can't be loaded here.
            StoreUnusable: the store can't be opened.
        """
        keys = [load_public_key(Path(key)) if isinstance(key, (str, Path)) else key for key in trusted]
        if not keys and not allow_unsigned:
            raise BundleUntrusted(
                f"no key was given to trust {path} by: pass trusted=[...] with the public key of whoever "
                "built it, or allow_unsigned=True for a trial"
            )
        guard = cls(Bundle.open(Path(path), keys or None), store=store, clock=clock)
        # Reading a bundle and making a session touch much that inferences never do.
        give_back()
        return guard

    def run(self, inputs: Tensors | NDArray[Any], inference_id: str = "") -> GuardedResult:
        """One guarded call.

        Args:
            inputs: the model's inputs by name, or the array itself where there is one; exactly the dtype and
                shape the model takes, several rows allowed where it has a batch.
            inference_id: the caller's name for it; the guard numbers it otherwise.

        Returns:
            Outputs and verdict. An input that does not fit, and a model that fails, give a verdict without
            outputs, not an exception.

        Raises:
            GuardClosed: after `close`.
        """
        calls = self._calls
        number = next(calls.numbers)
        if calls.closed:
            calls.refuse(number)
        quick = self._quick
        if quick is not None:
            tensor = inputs.get(quick.name) if type(inputs) is dict and len(inputs) == 1 else inputs
            if type(tensor) is np.ndarray and tensor.shape == quick.shape and tensor.dtype == quick.dtype:
                result = quick.run(tensor, inference_id, number)
                return result if self._answers is None else self._remembered(result)
        try:
            result = self._run(inputs, inference_id or f"{self._prefix}-{number}", perf_counter_ns())
        finally:
            calls.end()
        return result if self._answers is None else self._remembered(result)

    def label(self, inference_id: str, labels: Label | Sequence[Label]) -> bool:
        """Tell the true class of an earlier inference: its error is counted, tested and sent as a sketch.

        Args:
            inference_id: as the result of `run` names it.
            labels: the true class, by number or by name; of a batch, one for each row.

        Returns:
            Whether its answer is still remembered; a label that comes too late is only counted as unknown.

        Raises:
            LabelRefused: no such class, not one for each row, or the bundle was built without labels.
        """
        if self.labels is None:
            raise LabelRefused(
                inference_id,
                "can not be compared: the bundle was built without --labels, or its model is no classifier",
            )
        return self.labels.label(inference_id, labels)

    def _remembered(self, result: GuardedResult) -> GuardedResult:
        answers = self._answers
        assert answers is not None
        answers.append(result)
        if answers.waiting >= answers.most_fresh:
            answers.read()
        return result

    def _run(self, inputs: Tensors | NDArray[Any], inference_id: str, started: int) -> GuardedResult:
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            inputs = {self._signature.names[0]: np.asarray(inputs)}
        if self._signature.fits_one_row(inputs):
            before = perf_counter_ns()
            try:
                outputs: Mapping[str, NDArray[Any]] | Exception = self.runtime.run(inputs)
            except (InferenceFailed, RuntimeCrashed) as error:
                outputs = error
            return self._conclude_row(inputs, outputs, perf_counter_ns() - before, inference_id, started)
        problem = self._signature.problem(inputs)
        if problem is not None:
            return self._refuse(problem, inference_id, started)
        return self._run_batch(inputs, inference_id, started)

    def description(self) -> DescribeBody:
        """What the aggregator has to know to read this guard's windows."""
        return description(self.bundle, window_seconds=self.window_seconds, budget=self.policy.budget)

    def flush(self) -> None:
        """Close the open window now; it is recorded before this returns."""
        self.recorder.close_window()
        self.checks.retry()
        self._tell_closed()
        if self.labels is not None:
            self.labels.tick(now=True)

    def tick(self) -> None:
        """What the guard's own threads do every second or so, for guards without them."""
        self.recorder.tick()
        self._write()

    def _write(self) -> None:
        """Store the windows that were closed, and the labels' when they are due."""
        self.checks.write()
        self._tell_closed()
        if self.labels is not None:
            self.labels.tick()

    def _tell_closed(self) -> None:
        while True:
            try:
                closed = self._closed.popleft()
            except IndexError:
                return
            if self._on_window is not None:
                self._on_window(closed)

    def stretch(self, times: int) -> None:
        """Sketch rows that many times more rarely than `flush_seconds` says, in larger blocks."""
        if self._ticker is not None:
            self._ticker.stretch(times)
        if self._writer is not None:
            self._writer.stretch(times)

    def close(self, calls_s: float = CLOSE_CALLS_S) -> None:
        """Record the open window, stop the thread, and close the model; a second call does nothing.

        Args:
            calls_s: seconds that calls under way get to end. The model is then closed, which ends one that
                runs in a process of its own, and they get as long again.
        """
        if not self._calls.close():
            return
        ended = self._calls.wait(calls_s)
        if self._ticker is not None:
            self._ticker.stop()
        if self._writer is not None:
            self._writer.stop()
        self.flush()
        self.runtime.close()
        if not ended:
            self._calls.wait(calls_s)
            self.flush()
        self.checks.close()
        if self.labels is not None:
            self.labels.close()
        self.meter.close_channel(self._channel)
        if self._slot is not None and self.store is not None:
            if self._open_window is not None and not self.checks.waiting:
                self._open_window.close()
            self.store.row_mark.release(self._slot)
        if self.fallback is not None:
            self.fallback.close()
        if self._own_store and self.store is not None:
            self.store.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _quick_path(self) -> QuickPath | None:
        """For models of one small or decimated input and one small output of fixed shape."""
        runtime = self.runtime
        if len(runtime.inputs) != 1 or len(runtime.outputs) != 1 or not self._layouts.fixed:
            return None
        given, answer = runtime.inputs[0], runtime.outputs[0]
        how = self._decimation(given.name, [size or 1 for size in given.shape[given.batched :]], given.dtype)
        size, answer_size = (
            math.prod(size or 1 for size in spec.shape) * spec.dtype.itemsize for spec in (given, answer)
        )
        if (size > SMALL_TENSOR_BYTES and how is None) or answer_size > SMALL_TENSOR_BYTES or not size:
            return None
        return QuickPath(
            given,
            answer,
            how=how,
            ask=single_call(runtime),
            input_check=self._input_checks[0],
            output_check=self._output_check,
            frozen=self._frozen,
            recorder=self.recorder,
            calls=self._calls,
            channel=self._channel,
            prefix=self._prefix,
            hand_over=self._take_over,
        )

    def _take_over(
        self,
        inputs: Tensors,
        outputs: Mapping[str, NDArray[Any]] | Exception,
        model_ns: int,
        inference_id: str,
    ) -> GuardedResult:
        # The quick path's own share is not known here; a call like this costs many times as much.
        return self._conclude_row(inputs, outputs, model_ns, inference_id, perf_counter_ns() - model_ns)

    def _conclude_row(
        self,
        inputs: Tensors,
        outputs: Mapping[str, NDArray[Any]] | Exception,
        model_ns: int,
        inference_id: str,
        started: int,
    ) -> GuardedResult:
        """Judge and record a call of one row, given what the model answered or why it did not."""
        reasons: set[Reason] = set()
        raws: list[Raw] = []
        prints: list[bytes] = []
        for name, check in zip(self._signature.names, self._input_checks, strict=True):
            tensor = inputs[name]
            flat = tensor.reshape(1, -1)
            how = self._decimation(name, tensor.shape[self._batched[name] :], tensor.dtype)
            if how is not None:
                kept = how.take(tensor)
                raw = kept.tobytes()
                raws.append(raw)
                prints.append(raw)
                if not check.decimated_passes(tensor, kept, raw):
                    reasons |= check.examine(flat, kept[np.newaxis])[0]
                continue
            if not check.passes(flat):
                reasons |= check.examine(flat)[0]
            if flat.nbytes <= SMALL_TENSOR_BYTES:
                raw = flat.tobytes()
                raws.append(raw)
                prints.append(raw)
            else:
                raws.append(np.ascontiguousarray(flat).view(np.uint8).data.cast("B"))
                prints.append(sampled(flat).tobytes())
        with self.recorder.appending:
            if self._frozen.frozen(b"".join(prints) if len(prints) > 1 else prints[0]):
                reasons.add(Reason.FROZEN)
        if isinstance(outputs, Exception):
            reasons.add(Reason.MODEL_FAILED)
            self.recorder.append_unanswered(self._layouts.of(inputs, {}, 1), raws, int(min(reasons)))
            return self._failed(_Call(inputs, 1, inference_id, started, model_ns), reasons, outputs)
        wrong = self._output_check.examine(outputs, 1)
        if wrong is not None:
            reasons |= wrong[0]
        layout = self._layouts.of(inputs, outputs, 1)
        for one in layout.outputs:
            value = outputs[one.name]
            if one.row_bytes <= SMALL_TENSOR_BYTES:
                raws.append(value.tobytes())
            else:
                raws.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        self.recorder.append(layout, raws, model_ns / 1000, int(min(reasons)) if reasons else 0)
        if not reasons:
            self.meter.count_ok(1, perf_counter_ns() - started, model_ns)
            return GuardedResult(outputs, OK, inference_id)
        return self._judged(_Call(inputs, 1, inference_id, started, model_ns), outputs, reasons)

    def _run_batch(self, inputs: Tensors, inference_id: str, started: int) -> GuardedResult:
        rows = self._signature.rows(inputs)
        reasons: list[set[Reason]] = [set() for _ in range(rows)]
        for spec, check in zip(self._signature.specs, self._input_checks, strict=True):
            tensor = inputs[spec.name]
            flat = tensor.reshape(rows, -1) if spec.batched else tensor.reshape(1, -1)
            kept = self._layouts.kept(spec, tensor, rows)
            fine = check.passes(flat) if kept is None else False
            if not fine:
                for row, found in enumerate(check.examine(flat, kept)):
                    for marked in (reasons[row],) if spec.batched else reasons:
                        marked.update(found)
        self._watch_batch(inputs, rows, reasons)
        before = perf_counter_ns()
        try:
            outputs = self._call(inputs, rows)
        except (InferenceFailed, RuntimeCrashed) as error:
            spent = perf_counter_ns() - before
            for marked in reasons:
                marked.add(Reason.MODEL_FAILED)
            for marked in reasons:
                self.recorder.append_refused(int(min(marked)))
            call = _Call(inputs, rows, inference_id, started, spent)
            return self._failed(call, set().union(*reasons), error)
        spent = perf_counter_ns() - before
        wrong = self._output_check.examine(outputs, rows)
        if wrong is not None:
            for marked, found in zip(reasons, wrong, strict=True):
                marked.update(found)
        layout = self._layouts.of(inputs, outputs, rows)
        tensors = []
        for spec in self.runtime.inputs:
            value = as_rows(spec, inputs[spec.name], rows)
            if value is not None:
                kept = self._layouts.kept(spec, inputs[spec.name], rows)
                tensors.append(value if kept is None else kept)
        for spec in self.runtime.outputs:
            value = as_rows(spec, outputs[spec.name], rows)
            if value is not None:
                tensors.append(value)
        codes = np.array([int(min(marked)) if marked else 0 for marked in reasons], dtype=np.int64)
        self.recorder.extend(layout, tensors, spent / 1000 / rows, codes)
        every = set().union(*reasons)
        if not every:
            self.meter.count_ok(rows, perf_counter_ns() - started, spent)
            return GuardedResult(outputs, OK, inference_id, rows)
        return self._judged(_Call(inputs, rows, inference_id, started, spent), outputs, every)

    def _watch_batch(self, inputs: Tensors, rows: int, reasons: list[set[Reason]]) -> None:
        samples = []
        for spec in self._signature.specs:
            kept = self._layouts.kept(spec, inputs[spec.name], rows)
            flat = inputs[spec.name].reshape(rows if spec.batched else 1, -1)
            samples.append(sampled(flat) if kept is None else kept)
        with self.recorder.appending:
            for row in range(rows):
                prints = [sample[row if len(sample) == rows else 0].tobytes() for sample in samples]
                if self._frozen.frozen(b"".join(prints)):
                    reasons[row].add(Reason.FROZEN)

    def _call(self, inputs: Tensors, rows: int) -> Mapping[str, NDArray[Any]]:
        if rows == 1 or not self._signature.row_by_row:
            return self.runtime.run(inputs)
        return joined([self.runtime.run(self._signature.row(inputs, row)) for row in range(rows)])

    def _judged(
        self, call: _Call, outputs: Mapping[str, NDArray[Any]], reasons: set[Reason]
    ) -> GuardedResult:
        """What the policy makes of a call with something wrong in it."""
        actions = {self._actions[reason] for reason in reasons}
        if "abstain" in actions:
            return self._answered(call, Status.ABSTAINED, {}, reasons)
        if "fallback" in actions:
            return self._fall_back(call, reasons)
        return self._answered(call, Status.FLAGGED, outputs, reasons)

    def _failed(self, call: _Call, reasons: set[Reason], error: Exception) -> GuardedResult:
        """The model gave no answer: flagging one is not possible, a fallback may give another."""
        if self._on_failure is not None:
            self._on_failure(error)
        actions = {self._actions[reason] for reason in reasons}
        if "abstain" not in actions and "fallback" in actions:
            return self._fall_back(call, reasons, str(error))
        return self._answered(call, Status.ABSTAINED, {}, reasons, str(error))

    def _fall_back(self, call: _Call, reasons: set[Reason], detail: str = "") -> GuardedResult:
        before = perf_counter_ns()
        answer = self._ask_fallback(call.inputs, call.rows)
        call = call._replace(model_ns=call.model_ns + perf_counter_ns() - before)
        if answer is None:
            return self._answered(call, Status.ABSTAINED, {}, reasons, detail)
        return self._answered(call, Status.FALLBACK, answer, reasons, detail)

    def _answered(
        self,
        call: _Call,
        status: Status,
        outputs: Mapping[str, NDArray[Any]],
        reasons: set[Reason],
        detail: str = "",
    ) -> GuardedResult:
        self.meter.count(status, reasons, call.rows, perf_counter_ns() - call.started_ns, call.model_ns)
        return GuardedResult(outputs, verdict_of(status, reasons), call.inference_id, call.rows, detail)

    def _refuse(self, problem: tuple[Reason, str], inference_id: str, started: int) -> GuardedResult:
        reason, detail = problem
        self.recorder.append_refused(int(reason))
        self.meter.count(Status.ABSTAINED, (reason,), 1, perf_counter_ns() - started, 0)
        return GuardedResult({}, Verdict(Status.ABSTAINED, (reason,)), inference_id, 1, detail)

    def _ask_fallback(self, inputs: Tensors, rows: int) -> Mapping[str, NDArray[Any]] | None:
        """The fallback's answer; None when there is no fallback, or it fails as well."""
        signature = self._fallback_signature
        if self.fallback is None or signature is None or signature.problem(inputs) is not None:
            return None
        try:
            if rows == 1 or not signature.row_by_row:
                return self.fallback.run(inputs)
            return joined([self.fallback.run(signature.row(inputs, row)) for row in range(rows)])
        except (InferenceFailed, RuntimeCrashed) as error:
            log.warning("the fallback model failed as well: %s", error)
            return None

    def _window_closed(self, closed: ClosedWindow) -> None:
        self.checks.take(closed)
        self._closed.append(closed)
        # Whoever is told must not be told of ever more at once, should the store not come back.
        if self._writer is None or len(self._closed) > MAX_WAITING:
            self._tell_closed()
        else:
            self._writer.wake()

    def _keep_open(self, window: Window, mono: int, wall: int | None) -> None:
        """Keep the open window where a kill does not take it."""
        kept = self._open_window
        assert kept is not None
        kept.keep(
            WindowBody(
                bundle=self.bundle.id,
                schema_id=self.bundle.schema.id,
                mono_start=mono,
                mono_end=self._clock.mono_ms(),
                wall_start=wall,
                wall_end=self._clock.wall_ms(),
                window=window.to_bytes(),
            )
        )

    def _wake(self) -> None:
        if self._ticker is not None:
            self._ticker.wake()


def _scores(bundle: Bundle) -> Classification | None:
    return next((probe for probe in bundle.probes.probes if isinstance(probe, Classification)), None)

"""What `driftpost bundle` tells a person."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from driftpost_models.build import Built
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import TensorSpec
from driftpost_models.site_policy import HOLD
from driftpost_models.twin import Agreement
from driftpost_sketches.labels.betting import confidence_sequence
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.labels.reliability import STEPS
from driftpost_sketches.schema import StreamKind

_MAX_STREAM_LINES = 80
"""Lines of the table of streams; a thousand columns are not read by anyone."""

_MAX_SHORT_LINES = 5
_MAX_NAMES = 12


def built_text(built: Built) -> str:
    """The closing report of a build."""
    bundle = built.bundle
    lines = [
        f"{built.path}  ({_bytes(built.size)})",
        f"  bundle     {bundle.id[:16]}  {bundle.name} {bundle.version}",
        "  signature  "
        + (
            f"by {bundle.signature.key}"
            if bundle.signature
            else "none: devices take it only where unsigned bundles are allowed (sign with --key)"
        ),
        *_model_lines(bundle),
        *_reference_lines(bundle),
    ]
    if built.accuracy is not None:
        lines.append(f"  accuracy   {built.accuracy:.1%} on the reference's labels")
    lines += _float_lines(bundle)
    lines += _stream_lines(bundle)
    lines += _policy_lines(bundle)
    if built.notes:
        lines += ["", "Please check:", *(f"  - {note}" for note in grouped(built.notes))]
    if built.short:
        lines += ["", "The reference is short for the budget:"]
        lines += [f"  - {sentence}" for sentence in built.short[:_MAX_SHORT_LINES]]
        if len(built.short) > _MAX_SHORT_LINES:
            lines.append(f"  - and {len(built.short) - _MAX_SHORT_LINES} streams more")
    return "\n".join(lines)


def grouped(notes: Sequence[str]) -> list[str]:
    """Notes that say the same of several streams, said once."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for note in notes:
        stream, separator, text = note.partition(": ")
        key = re.sub(r"[\d.,]+", "#", text) if separator and " " not in stream else note
        groups.setdefault(key, []).append((stream, note))
    lines = []
    for (_, first), *others in groups.values():
        names = ", ".join(stream for stream, _ in others[:_MAX_NAMES])
        names += f" and {len(others) - _MAX_NAMES} more" if len(others) > _MAX_NAMES else ""
        lines.append(first + (f" (similarly {names})" if others else ""))
    return lines


def inspect_text(bundle: Bundle) -> str:
    """A bundle, readable."""
    signature = bundle.signature
    if signature is None:
        signed = "none"
    else:
        signed = f"by {signature.key}" + (
            ", verified" if signature.verified else ", not verified (give --key)"
        )
    tools = bundle.provenance.get("tools", {})
    lines = [
        f"{bundle.name} {bundle.version}",
        f"  bundle     {bundle.id}",
        f"  created    {bundle.created} by {bundle.provenance.get('author', 'unknown')}",
        f"  signature  {signed}",
        *_model_lines(bundle),
        *_reference_lines(bundle),
    ]
    if isinstance(tools, Mapping):
        lines.append("  tools      " + ", ".join(f"{name} {version}" for name, version in tools.items()))
    if bundle.performance is not None:
        lines += _performance_lines(bundle.performance)
    lines += _policy_lines(bundle)
    lines += _stream_lines(bundle)
    lines += _golden_lines(bundle)
    if bundle.confusion is not None:
        lines += _confusion_lines(bundle.confusion, bundle.classes)
    return "\n".join(lines)


def inspect_json(bundle: Bundle) -> str:
    """A bundle for programs."""
    calibration = bundle.calibration
    streams = []
    tracked = set(calibration.tracked_names)
    for index, stream in enumerate(bundle.schema.streams):
        summary = calibration.baseline.summary(bundle.schema, index)
        plain: dict[str, object] = {**stream.to_dict(), "n": int(summary.n)}
        if stream.name in tracked:
            plain["tau_rows"] = float(calibration.tau(stream.name))
            plain["effective_rows"] = float(calibration.n_ref(stream.name))
        if stream.kind is StreamKind.NUMERIC:
            for field in ("mean", "std", "low", "high"):
                plain[field] = _number(getattr(summary, field))
        streams.append(plain)
    signature = bundle.signature
    return json.dumps(
        {
            "id": bundle.id,
            "name": bundle.name,
            "version": bundle.version,
            "created": bundle.created,
            "signature": None
            if signature is None
            else {"key": signature.key, "verified": signature.verified},
            "model": {
                "kind": bundle.model_kind,
                "bytes": len(bundle.model_bytes),
                "inputs": [spec.to_dict() for spec in bundle.inputs],
                "outputs": [spec.to_dict() for spec in bundle.outputs],
            },
            "classes": list(bundle.classes),
            "confusion": None if bundle.confusion is None else bundle.confusion.tolist(),
            "performance": None if bundle.performance is None else _performance_plain(bundle.performance),
            "policy": bundle.policy.to_dict(),
            "golden": {"calls": bundle.golden.calls, "tolerance": dict(bundle.golden.tolerance)},
            "provenance": dict(bundle.provenance),
            "streams": streams,
        },
        indent=2,
        ensure_ascii=False,
    )


def _number(value: float) -> float | None:
    """A plain number; JSON has none for what is not finite."""
    return float(value) if np.isfinite(value) else None


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _tensor(spec: TensorSpec) -> str:
    grid = f", scale {spec.scale:.6g}, zero point {spec.zero_point}" if spec.quantized else ""
    return f"{spec.name} {spec.describe()}{grid}"


def _model_lines(bundle: Bundle) -> list[str]:
    lines = [f"  model      {bundle.model_kind}, {_bytes(len(bundle.model_bytes))}"]
    lines += [f"    in       {_tensor(spec)}" for spec in bundle.inputs]
    lines += [f"    out      {_tensor(spec)}" for spec in bundle.outputs]
    return lines


def _reference_lines(bundle: Bundle) -> list[str]:
    reference = bundle.provenance.get("reference")
    if not isinstance(reference, Mapping):
        return []
    if reference.get("source") == "none":
        return ["  reference  none: every device learns its own normal"]
    lines = [
        f"  reference  {reference.get('rows')} rows of {reference.get('source')} from {reference.get('file')}"
        + (", labelled" if reference.get("labelled") else "")
    ]
    steps = reference.get("preprocessing")
    lines += [f"    step     {step}" for step in steps] if isinstance(steps, Sequence) else []
    return lines


def _policy_lines(bundle: Bundle) -> list[str]:
    policy = bundle.policy
    reasons = "".join(f", {reason}: {action}" for reason, action in policy.reasons.items())
    least = "" if policy.min_confidence is None else f", least confidence {policy.min_confidence:g}"
    return [
        f"  policy     {policy.budget} false alarms, smallest change {policy.smallest_effect:g} sd, "
        f"windows of {policy.window_seconds:g} s",
        f"             on a bad verdict: {policy.on_bad_verdict}{reasons}{least}",
        *_derived_lines(bundle),
        *_site_lines(bundle),
    ]


def _derived_lines(bundle: Bundle) -> list[str]:
    plan = bundle.derived
    lines = []
    if plan.season is not None:
        clock = "" if not plan.needs_time else ", local time" if plan.season.local else ", UTC"
        lines.append(
            f"             {_count(len(plan.season.streams), 'stream')} against what is usual for the "
            f"{plan.season.phase.words}{clock}"
        )
    if plan.slices:
        by = ", ".join(dict.fromkeys(one.by for one in plan.slices))
        lines.append(f"             {_count(len(plan.slices), 'slice')} by {by}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _site_lines(bundle: Bundle) -> list[str]:
    site = bundle.policy.site
    if not site.baseline and not bundle.unknown_streams:
        return []
    what = "learns its own normal" if bundle.unknown_streams else "learns its own normal beside the reference"
    alarm = "an alarm stops it" if site.on_alarm == HOLD else "alarms do not stop it"
    return [f"             a device {what} for {site.plan}; {alarm}"]


def _stream_lines(bundle: Bundle) -> list[str]:
    schema, calibration = bundle.schema, bundle.calibration
    tracked = set(calibration.tracked_names)
    lines = [f"  streams    {len(schema.streams)}, {len(tracked)} of them watched"]
    width = max(len(stream.name) for stream in schema.streams)
    unknown = set(bundle.unknown_streams)
    for index, stream in enumerate(schema.streams[:_MAX_STREAM_LINES]):
        if stream.name in unknown:
            lines.append(f"    {stream.name:<{width}}  {stream.role.value:<7}  learnt on the device")
            continue
        summary = calibration.baseline.summary(schema, index)
        if stream.kind is StreamKind.NUMERIC:
            unit = f" {stream.unit}" if stream.unit else ""
            text = (
                f"{summary.mean:.4g} +- {summary.std:.3g}{unit}, from {summary.low:.4g} to {summary.high:.4g}"
            )
        elif stream.kind is StreamKind.CATEGORICAL:
            shares = np.asarray(summary.share, np.float64)
            best = np.argsort(-shares)[:3]
            text = ", ".join(f"{stream.bin_label(int(b))} {shares[b]:.0%}" for b in best if shares[b] > 0)
        else:
            text = "counts of every code"
        memory = ""
        if stream.name in tracked:
            tau = calibration.tau(stream.name)
            memory = f"  (one independent row in {tau:.1f})" if tau > 1.5 else ""
        else:
            memory = "  (kept, not watched)"
        lines.append(f"    {stream.name:<{width}}  {stream.role.value:<7}  {text}{memory}")
    if len(schema.streams) > _MAX_STREAM_LINES:
        lines.append(f"    and {len(schema.streams) - _MAX_STREAM_LINES} more (--json shows all)")
    return lines


def _golden_lines(bundle: Bundle) -> list[str]:
    allowed = ", ".join(f"{name} +-{value:.3g}" for name, value in bundle.golden.tolerance.items())
    return [f"  golden     {bundle.golden.calls} calls, tolerance {allowed}", *_float_lines(bundle)]


def _float_lines(bundle: Bundle) -> list[str]:
    """How far the model agrees with its float build."""
    facts = bundle.provenance.get("float_model")
    if not isinstance(facts, Mapping):
        return []
    found = Agreement.from_dict(facts)
    return [f"  float      {facts.get('file')}: {found.text}"]


def _performance_lines(record: PerformanceRecord) -> list[str]:
    low, high = confidence_sequence(record.labels.rows, record.labels.loss / STEPS, record.independent)
    lines = [
        f"  accuracy   {record.accuracy:.1%} of {record.labels.rows} labelled reference rows "
        f"({1 - high:.1%} to {1 - low:.1%})"
    ]
    ece, brier = record.labels.reliability.ece(record.independent), record.labels.reliability.brier()
    if ece is not None and brier is not None:
        lines.append(
            f"    calibration error {ece.value:.1%} ({ece.low:.1%} to {ece.high:.1%}), "
            f"Brier score {brier.score:.3f}"
        )
    return lines


def _performance_plain(record: PerformanceRecord) -> dict[str, object]:
    ece, brier = record.labels.reliability.ece(record.independent), record.labels.reliability.brier()
    return {
        "rows": record.labels.rows,
        "accuracy": record.accuracy,
        "independent_rows": record.labels.rows / record.independent,
        "calibration_error": None if ece is None else [ece.value, ece.low, ece.high],
        "brier": None if brier is None else brier.score,
        "reliability": record.labels.reliability.table(),
        "threshold": _number(record.threshold),
    }


def _confusion_lines(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    if len(confusion) > 16:
        return []
    names = list(classes) or [str(k) for k in range(len(confusion))]
    width = max(6, *(len(name) for name in names))
    lines = ["  confusion  (rows are true classes, columns answers)"]
    lines.append("    " + " " * width + "".join(f" {name[:6]:>6}" for name in names))
    for name, row in zip(names, confusion, strict=True):
        lines.append(f"    {name:>{width}}" + "".join(f" {n:>6}" for n in row))
    return lines

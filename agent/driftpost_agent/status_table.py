"""The status document as a page for a field engineer's terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

_COLOURS = {"ok": "green", "starting": "yellow", "degraded": "yellow", "failing": "red"}
_WIDTH = 14
# Characters of a budget's bar.
_BAR = 20


def render(document: Mapping[str, Any]) -> str:
    """The page; colours are stripped by click where the terminal has none."""
    return "\n".join(_lines(document))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    device, health = document["device"], document["health"]
    attributes = ", ".join(f"{key}={value}" for key, value in device["attributes"].items())
    where = f" ({attributes})" if attributes else ""
    state = click.style(health["state"].upper(), fg=_COLOURS.get(health["state"]), bold=True)
    yield _row("device", f"{device['id']} in fleet {device['fleet']}{where}")
    yield _row("health", f"{state}, up {_duration(document['uptime_s'])}, driftpost {document['version']}")
    for reason in health["reasons"]:
        yield _row("", f"! {reason}")
    yield from _model(document)
    yield from _windows(document)
    yield from _inputs(document.get("inputs", {}))
    yield from _link(document["link"])
    yield from _findings(document["findings"])
    yield from _site(document["site"])
    yield from _budgets(document.get("budgets", {}))
    yield from _board(document.get("board", {}))
    store, process = document["store"], document["process"]
    yield _row("disk", f"{_size(store['bytes'])} in {store['path']}; {process['written_mb']:.1f} MB written")
    yield _row("memory", f"agent {process['agent_mb']:.0f} MB, model {process['model_mb']:.0f} MB")
    clock = "good" if document["clock"]["wall_good"] else "not known to be good; order and durations are"
    yield _row("wall clock", clock)


def _model(document: Mapping[str, Any]) -> Iterator[str]:
    model, inferences = document["model"], document["inferences"]
    if not model:
        yield _row("model", "none is loaded yet")
        return
    restarts = f", restarted {model['restarts']} times" if model["restarts"] else ""
    yield _row("model", f"{model['name']} {model['version']}, bundle {model['bundle'][:12]}")
    yield _row("", f"{model['runtime']} on {model['provider']}, {model['streams']} streams{restarts}")
    if model.get("declined"):
        yield _row("", f"not on {model['declined']}")
    verdicts = ", ".join(
        f"{inferences[name]} {name}" for name in ("flagged", "abstained", "fallback") if inferences.get(name)
    )
    yield _row(
        "inferences", f"{inferences['calls']} calls, {inferences['rows']} rows; {verdicts or 'all ok'}"
    )
    if inferences["reasons"]:
        yield _row("", ", ".join(f"{name} {count}" for name, count in inferences["reasons"].items()))
    yield _row("", f"model {inferences['model_us']:.0f} us a call, guard {inferences['guard_us']:.1f} us")


def _windows(document: Mapping[str, Any]) -> Iterator[str]:
    windows = document["windows"]
    yield _row(
        "windows",
        f"{windows['recorded']} recorded, {windows['sent']} sent, {windows['acked']} acknowledged, "
        f"{windows['pending']} pending, {windows['quarantined']} quarantined",
    )
    seconds = document["window_seconds"]
    every = f"a window is {seconds:g} s; " if seconds else ""
    yield _row("", f"{every}{windows['open_rows']} rows in the open one")
    if windows["waiting_for_store"]:
        yield _row("", f"! {windows['waiting_for_store']} wait in memory: {document['store']['problem']}")
    if windows["given_up"]:
        yield _row("", f"! {windows['given_up']} were too large to be kept; track fewer streams")
    if windows["lost_rows"]:
        yield _row("", f"{windows['lost_rows']} rows were lost when the agent was killed")


def _inputs(inputs: Mapping[str, Any]) -> Iterator[str]:
    folder, topics = inputs.get("folder"), inputs.get("local_mqtt")
    if folder:
        yield _row("folder", f"{folder['path']}: {folder['done']} done, {folder['failed']} failed")
        if folder["problem"]:
            yield _row("", f"! {folder['problem']}")
    if topics:
        state = "connected" if topics["connected"] else "not connected"
        yield _row(
            "topics",
            f"{topics['topic']} at {topics['broker']}, {state}: {topics['answered']} answered, "
            f"{topics['refused']} refused",
        )
        if topics["problem"]:
            yield _row("", f"! {topics['problem']}")


def _link(link: Mapping[str, Any]) -> Iterator[str]:
    if not link["enabled"]:
        yield _row("link", "off (sync.enabled is false)")
        return
    state = "connected" if link["connected"] else "not connected"
    protocol = f", MQTT {link['protocol']}" if link["protocol"] else ""
    yield _row("link", f"{state} to {link['broker']}{protocol}; {_size(link['sent_bytes'])} sent")
    if link["trouble"]:
        yield _row("", f"! {link['trouble']}")
    if link["twins"]:
        yield _row("", f"! another device uses this name (seen {link['twins']} times)")


def _findings(findings: Mapping[str, Any]) -> Iterator[str]:
    yield _row("findings", f"{findings['standing']} standing, {findings['raised']} ever raised")
    for finding in findings["latest"]:
        if finding["state"] == "raised":
            yield _row("", f"! {finding['text']}" + (f" (since {finding['at']})" if finding["at"] else ""))


def _budgets(budgets: Mapping[str, Any]) -> Iterator[str]:
    """Used, budget and share of each, and what is done where it is exceeded."""
    title = "budgets"
    for name, fact in budgets.items():
        unit = fact["unit"]
        used, budget = _budgeted(fact["used"], unit), _budgeted(fact["budget"], unit)
        share = fact["share"]
        filled = min(_BAR, max(0, round(share * _BAR)))
        bar = click.style("#" * filled, fg="red" if share > 1 else "yellow" if share > 0.8 else "green")
        per = unit.removeprefix("bytes").strip()
        text = f"{name:<8} [{bar}{'.' * (_BAR - filled)}] {share:>4.0%}  {used} of {budget} {per}".rstrip()
        yield _row(title, text)
        if fact["doing"]:
            yield _row("", f"! {fact['doing']} ({fact['setting']})")
        title = ""


def _budgeted(value: float, unit: str) -> str:
    return _size(value) if unit.startswith("bytes") else f"{value:.0f}"


def _board(board: Mapping[str, Any]) -> Iterator[str]:
    parts = []
    for name, fact in board.items():
        if name in {"throttled", "undervoltage"}:
            if fact["value"]:
                parts.append(click.style(name, fg="red"))
        elif name == "clock_share":
            parts.append(f"clock {fact['value']:.0%}")
        else:
            number = f"{fact['value']:.0f}" if fact["value"] >= 10 else f"{fact['value']:.2g}"
            parts.append(f"{name.replace('_', ' ')} {number} {fact['unit']}".rstrip())
    if parts:
        yield _row("board", ", ".join(parts))


def render_site(site: Mapping[str, Any]) -> str:
    """The site baseline by itself."""
    return "\n".join(_site(site)) or "The policy of the active bundle has no site baseline."


def _site(site: Mapping[str, Any]) -> Iterator[str]:
    mode = site["mode"]
    if mode == "off":
        return
    if mode == "watching":
        yield _row("site", f"watched by this device's own normal, learnt from {site['rows']:,} rows")
    else:
        wanted = f" of about {site['rows_wanted']:,}" if site["rows_wanted"] else ""
        left = site["seconds_left"]
        time = f", about {_duration(left)} to go" if left and mode == "learning" else ""
        what = {
            ("learning", "ranges"): "learning the range of every stream",
            ("learning", "chains"): "learning how rows follow each other",
            ("fitting", "done"): "making the calibration",
        }.get((mode, site["phase"]), "learning has stopped while an alarm stands")
        yield _row("site", f"{what}: {site['rows']:,} rows{wanted}{time}")
        yield _row("", "until then changes are measured against the training data")
    for text in site["held_by"]:
        yield _row("", f"! {text} (is it normal here? `driftpost agent site accept`)")
    for text in site["differs"]:
        yield _row("", f"installed differently, to be measured: {text}")
    for text in (*site["skew"], *site["notes"]):
        yield _row("", text)


def _row(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

"""`driftpost agent doctor`: what is wrong with this device, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from driftpost_agent.command_settings import config_option, read_settings
from driftpost_agent.diagnosis import Diagnosis, Grade, failed
from driftpost_sync.errors import SettingsError

_MARKS = {
    Grade.OK: ("ok", "green"),
    Grade.WARNING: ("warning", "yellow"),
    Grade.FAILED: ("FAILED", "red"),
    Grade.SKIPPED: ("-", None),
}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--no-model", is_flag=True, help="Do not load the model and replay its golden inputs.")
@click.option("--strict", is_flag=True, help="Warnings end with exit status 1, too.")
@click.pass_context
def doctor(context: click.Context, config: Path, as_json: bool, no_model: bool, strict: bool) -> None:
    """Check configuration, clock, disk, store, board, bundle, model, broker and certificates.

    Says what to mend. Exit status: 0 if the agent can do its work, 1 if something keeps it from it, 2 if the
    command itself was wrong. Nothing is changed, and a running agent is not disturbed.
    """
    found: list[Diagnosis] = []
    try:
        settings = read_settings(config)
    except SettingsError as error:
        for problem in error.problems:
            text = f"{problem.key}: {problem.text}" if problem.key else problem.text
            found.append(failed("configuration", text, "`driftpost agent settings` lists what there is."))
            _show(found[-1], as_json)
    else:
        from driftpost_agent.doctor import examine  # noqa: PLC0415 - `--help` needs none of it

        for diagnosis in examine(settings, model=not no_model):
            found.append(diagnosis)
            _show(diagnosis, as_json)
    grades = [diagnosis.grade for diagnosis in found]
    wrong = grades.count(Grade.FAILED)
    doubtful = grades.count(Grade.WARNING)
    bad = bool(wrong or (strict and doubtful))
    if as_json:
        plain = {"ok": not bad, "checks": [diagnosis.to_plain() for diagnosis in found]}
        click.echo(json.dumps(plain, indent=2))
    else:
        warnings = "1 warning" if doubtful == 1 else f"{doubtful} warnings"
        click.echo(f"{wrong} failed, {warnings}" if wrong or doubtful else "all is well")
    context.exit(1 if bad else 0)


def _show(diagnosis: Diagnosis, as_json: bool) -> None:
    """At once, as a model takes its time to start."""
    if as_json:
        return
    word, colour = _MARKS[diagnosis.grade]
    click.echo(f"{click.style(f'{word:<8}', fg=colour)} {diagnosis.about + ':':<14} {diagnosis.text}")
    if diagnosis.remedy:
        click.echo(f"{'':<24}-> {diagnosis.remedy}")

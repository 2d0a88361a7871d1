"""The command `driftpost replay`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelError
from driftpost_models.image_files import ImageScale
from driftpost_models.progress_bars import ProgressBars
from driftpost_models.replay.columns import Wishes
from driftpost_models.replay.commission import LEAST_ROWS
from driftpost_models.replay.replay import Replay, replay_bundle, replay_commissioned, replay_table
from driftpost_models.replay.report import json_lines, text
from driftpost_models.replay.setup import Setup

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--reference", type=_FILE, help="Rows when all was well, in time order: .csv with a header, .npz or .npy."
)
@click.option(
    "--live",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Rows to watch, in time order; with --bundle what `driftpost bundle build` takes.",
)
@click.option("--bundle", "bundle_file", type=_FILE, help="Replay through this bundle's model and probes.")
@click.option("--budget", help="False alarms allowed, such as '1 per device-year' (the default).")
@click.option("--window", type=click.IntRange(min=1), help="Rows of a window; 100 without a bundle.")
@click.option(
    "--row-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds between rows: turns the budget into a threshold. 1 by default.",
)
@click.option(
    "--smallest-effect",
    type=click.FloatRange(min=0, max=10),
    help="Smallest change worth an alarm, in reference standard deviations; 0.1, or the bundle's.",
)
@click.option("--labels", metavar="COLUMN", help="The column with the true class.")
@click.option(
    "--prediction",
    metavar="COLUMN",
    help="The column with the model's answer: with --labels, tests whether answers became worse.",
)
@click.option("--confidence", metavar="COLUMN", help="The column with the answer's confidence, 0 to 1.")
@click.option("--categorical", multiple=True, metavar="COLUMN", help="A column of categories (repeatable).")
@click.option("--numeric", multiple=True, metavar="COLUMN", help="A column of quantities (repeatable).")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="A column to leave out (repeatable).")
@click.option(
    "--season",
    metavar="WORDS",
    help="What is usual goes by hour-of-day, half-hour-of-day, hour-of-week, or by this column.",
)
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Watch also where this column of categories has each of its values (repeatable).",
)
@click.option("--time", metavar="COLUMN", help="The column of times; else the first one that looks like it.")
@click.option("--start", metavar="TIME", help="Time of the first reference row, where no column has times.")
@click.option("--live-start", metavar="TIME", help="Of the first live row; else it follows the reference.")
@click.option(
    "--commission",
    metavar="ROWS",
    type=click.IntRange(min=LEAST_ROWS),
    help="Learn the device's own normal from this many first live rows, and watch by it from then on. "
    "Without --reference and --bundle this is all there is to go by.",
)
@click.option("--image-scale", help="With --bundle and images: as for `driftpost bundle build`.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, for programs.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the course into this PNG file."
)
def replay(  # noqa: PLR0917 - click passes every option by name
    reference: Path | None,
    live: Path,
    bundle_file: Path | None,
    budget: str | None,
    window: int | None,
    row_seconds: float | None,
    smallest_effect: float | None,
    labels: str | None,
    prediction: str | None,
    confidence: str | None,
    categorical: tuple[str, ...],
    numeric: tuple[str, ...],
    ignore: tuple[str, ...],
    season: str | None,
    slices: tuple[str, ...],
    time: str | None,
    start: str | None,
    live_start: str | None,
    commission: int | None,
    image_scale: str | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Run the device's detectors over recorded data: what would they have said, and when?"""
    columns = bool(categorical or numeric or ignore or season or slices or live_start)
    if reference is None and bundle_file is None and commission is not None:
        _check_alone(plot, labels=labels, derived=bool(season or slices or start or live_start))
    else:
        _check_options(reference, bundle_file, columns, image_scale, plot)
    if bundle_file is not None and (prediction or confidence):
        raise click.UsageError("--prediction and --confidence are for --reference; a bundle's model answers")
    if confidence is not None and prediction is None:
        raise click.UsageError("--confidence goes with --prediction")
    if prediction is not None and labels is None:
        raise click.UsageError("--prediction goes with --labels: the reference's errors are what is compared")
    if start is not None and row_seconds is None:
        raise click.UsageError("--start needs --row-seconds: the times of all rows follow from both")
    if live_start is not None and start is None:
        raise click.UsageError("--live-start goes with --start")
    setup = Setup(
        budget, window, row_seconds, smallest_effect, trace=plot is not None,
        season=season, slices=slices, start=start, live_start=live_start, commission=commission,
    )  # fmt: skip
    try:
        with ProgressBars() as bars:
            if bundle_file is not None:
                result = replay_bundle(
                    Bundle.open(bundle_file, None),
                    live,
                    setup,
                    labels=labels,
                    time=time,
                    image_scale=None if image_scale is None else ImageScale.parse(image_scale),
                    tell=bars.update,
                )
            else:
                wishes = Wishes(
                    frozenset(categorical), frozenset(numeric), frozenset(ignore),
                    labels=labels, prediction=prediction, confidence=confidence, time=time,
                )  # fmt: skip
                if reference is None:
                    result = replay_commissioned(live, setup, wishes, bars.update)
                else:
                    result = replay_table(reference, live, setup, wishes, bars.update)
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        for line in json_lines(result):
            click.echo(line)
    else:
        click.echo(text(result))
    if plot is not None:
        _draw(result, plot, quiet=as_json)


def _check_alone(plot: Path | None, *, labels: str | None, derived: bool) -> None:
    if labels is not None or derived:
        raise click.UsageError(
            "--labels, --season, --slice, --start and --live-start need a --reference or a --bundle"
        )
    if plot is not None:
        raise click.UsageError("--plot needs a --reference or a --bundle to draw against")


def _check_options(
    reference: Path | None,
    bundle_file: Path | None,
    columns: bool,
    image_scale: str | None,
    plot: Path | None,
) -> None:
    if (reference is None) == (bundle_file is None):
        raise click.UsageError(
            "give either --reference or --bundle (which holds its own reference), or only --commission ROWS"
        )
    if bundle_file is not None and columns:
        raise click.UsageError(
            "--categorical, --numeric, --ignore, --season, --slice and --live-start are for --reference; "
            "a bundle has its own"
        )
    if bundle_file is None and image_scale is not None:
        raise click.UsageError("--image-scale is for --bundle")
    if plot is None:
        return
    # Said before the long work, not after it.
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("--plot needs matplotlib; install it with: pip install 'driftpost[plots]'")
    if plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot {plot}: the plot is a PNG; give a name that ends in .png")
    if not plot.parent.is_dir():
        raise click.UsageError(f"--plot {plot}: there is no folder {plot.parent}")


def _draw(result: Replay, path: Path, *, quiet: bool) -> None:
    from driftpost_models.replay.plot import draw  # noqa: PLC0415 - matplotlib takes a second, and is an extra

    try:
        draw(result, path)
    except OSError as error:
        raise click.ClickException(f"{path} can not be written: {error.strerror or error}") from error
    if not quiet:
        click.echo(f"\nplot       {path}")

"""The commands `driftpost bundle` and `driftpost keys`."""

from __future__ import annotations

from pathlib import Path

import click

from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelError, ReferenceRefused
from driftpost_models.file_argument import FileArgument
from driftpost_models.image_files import ImageScale
from driftpost_models.progress_bars import ProgressBars
from driftpost_models.report import built_text, inspect_json, inspect_text
from driftpost_models.signing import (
    fingerprint,
    generate,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
)
from driftpost_models.twin import LEAST_AGREEMENT, MOST_DISTANCE, Tolerance

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_BUNDLE = FileArgument("Check the path; `driftpost bundle build` makes a bundle.")
_MODEL = FileArgument("Check the path; it is the trained model's .onnx or .tflite file.")
_REFERENCE = FileArgument(
    "Check the path; it holds what the model saw when all was well, as `bundle build --help` lists.",
    folder=True,
)
_PRIVATE_KEY = FileArgument("Check the path; `driftpost keys new PATH` makes a key.")
_PUBLIC_KEY = FileArgument("Check the path; it is the .pub file that `driftpost keys new` wrote.")
_KEY_NAME = "driftpost.key"


@click.group()
def bundle() -> None:
    """Build, look at and verify bundles: a model with its baseline and policy in one signed file."""


@bundle.command()
@click.option("--model", required=True, type=_MODEL, help="The .onnx or .tflite file.")
@click.option(
    "--reference",
    type=_REFERENCE,
    help="What the model saw when all was well, in time order: .npz, .npy, .csv (with a header), "
    "a folder of images or of raw tensors (.bin). Without one every device learns its own normal first "
    "(policy.site.commission says how long).",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@click.option("--labels", help="True classes: a file, or the name of a column or array of the reference.")
@click.option("--classes", "classes_file", type=_FILE, help="A text file with the class names, one a line.")
@click.option(
    "--key",
    "key_file",
    type=_PRIVATE_KEY,
    help="Private key that signs the bundle (see `driftpost keys new`).",
)
@click.option("--name", help="The model's name; by default the file's.")
@click.option("--model-version", help="The model's version; by default the first digits of its SHA-256.")
@click.option("--author", help="Who builds it; by default the operating system's user.")
@click.option("--config", "config_file", type=_FILE, help="TOML file with [probes] and [policy].")
@click.option("--image-scale", help="What black and white are fed as: 0..1, -1..1, 0..255, or `codes`.")
@click.option("--time", help="Column or array of the reference with the time of each row (for a season).")
@click.option("--start", help="Time of the first row where no column has it, such as 2026-03-01T00:00.")
@click.option(
    "--row-seconds", type=click.FloatRange(min=0, min_open=True), help="Between rows, with --start."
)
@click.option(
    "--float-model",
    type=_MODEL,
    help="A float build of the same model: how far both agree is measured, and devices get its answers.",
)
@click.option(
    "--float-agreement",
    type=click.FloatRange(0, 1),
    default=LEAST_AGREEMENT,
    show_default=True,
    help="Least share of rows to which both builds give the same best class.",
)
@click.option(
    "--float-distance",
    type=click.FloatRange(0, 1),
    default=MOST_DISTANCE,
    show_default=True,
    help="Most that answers may lie apart: half the summed differences of probabilities, or parts of range.",
)
@click.option("--tap", is_flag=True, help="Watch the penultimate layer as well (ONNX; it becomes an output).")
@click.option("--budget", help="False alarms allowed, such as '1 per device-year'.")
@click.option("--smallest-effect", type=float, help="Smallest change worth an alarm, in standard deviations.")
@click.option("--window-seconds", type=float, help="Length of a window.")
def build(  # noqa: PLR0917 - click passes every option by name
    model: Path,
    reference: Path | None,
    out: Path,
    labels: str | None,
    classes_file: Path | None,
    key_file: Path | None,
    name: str | None,
    model_version: str | None,
    author: str | None,
    config_file: Path | None,
    image_scale: str | None,
    time: str | None,
    start: str | None,
    row_seconds: float | None,
    float_model: Path | None,
    float_agreement: float,
    float_distance: float,
    tap: bool,
    budget: str | None,
    smallest_effect: float | None,
    window_seconds: float | None,
) -> None:
    """Build a bundle from a model and reference data."""
    if reference is None and labels is not None:
        raise click.UsageError("--labels are of a reference; give --reference as well")
    if reference is None and float_model is not None:
        raise click.UsageError("--float-model is compared on a reference; give --reference as well")
    try:
        with ProgressBars() as bars:
            built = build_bundle(
                model,
                reference,
                out,
                name=name,
                version=model_version,
                labels=labels,
                classes=_classes(classes_file),
                config=config_file,
                image_scale=None if image_scale is None else ImageScale.parse(image_scale),
                time=time,
                start=start,
                row_seconds=row_seconds,
                budget=budget,
                smallest_effect=smallest_effect,
                window_seconds=window_seconds,
                author=author,
                key=None if key_file is None else load_private_key(key_file),
                float_model=float_model,
                float_tolerance=Tolerance(float_agreement, float_distance),
                tap=tap,
                progress=bars.update,
            )
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{out} can not be written: {error.strerror or error}") from error
    click.echo(built_text(built))


@bundle.command()
@click.argument("path", type=_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--key", "key_file", type=_PUBLIC_KEY, help="Public key to verify the signature with.")
def inspect(path: Path, as_json: bool, key_file: Path | None) -> None:
    """Show what a bundle holds."""
    opened = _open(path, key_file)
    click.echo(inspect_json(opened) if as_json else inspect_text(opened))


@bundle.command()
@click.argument("path", type=_BUNDLE)
@click.option(
    "--key", "key_file", required=True, type=_PUBLIC_KEY, help="Public key that must have signed it."
)
def verify(path: Path, key_file: Path) -> None:
    """Check every hash and the signature; the exit status says whether all is well."""
    opened = _open(path, key_file)
    assert opened.signature is not None
    click.echo(
        f"{path}: {opened.name} {opened.version}, "
        f"every hash and the signature of {opened.signature.key} match"
    )


@click.group()
def keys() -> None:
    """Make and show the keys that sign bundles."""


@keys.command()
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path) -> None:
    """Make a key pair: PATH (private, keep it off the devices) and PATH.pub; a folder gets driftpost.key."""
    target = path / _KEY_NAME if path.is_dir() else path
    public = target.with_name(target.name + ".pub")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        key = generate()
        save_private_key(key, target)
        save_public_key(key, public)
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{target} can not be written: {error.strerror or error}") from error
    click.echo(f"private key  {target}  (signs bundles; readable by you alone, never copy it to a device)")
    click.echo(f"public key   {public}  (devices trust it: [model] trusted_keys)")
    click.echo(f"fingerprint  {fingerprint(key)}")


@keys.command()
@click.argument("path", type=_PUBLIC_KEY)
def show(path: Path) -> None:
    """Show the fingerprint of a private or public key."""
    try:
        click.echo(fingerprint(load_public_key(path)))
    except ModelError as error:
        raise click.ClickException(str(error)) from error


def _open(path: Path, key_file: Path | None) -> Bundle:
    try:
        return Bundle.open(path, None if key_file is None else [load_public_key(key_file)])
    except ModelError as error:
        raise click.ClickException(str(error)) from error


def _classes(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReferenceRefused(f"the class names {path} can not be read: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ReferenceRefused(f"{path} holds no class names")
    return names

import json

import pytest

# What a device with a few hundred megabytes must not be made to install; each is what a convenience elsewhere
# in this project, or a dependency's new version, would first bring along.
TOO_HEAVY_FOR_A_DEVICE = {
    "aiohttp", "alembic", "amqtt", "django", "fastapi", "flask", "httpx", "jinja2", "matplotlib", "onnx",
    "pandas", "plotly", "pydantic", "rich", "scikit-learn", "scipy", "sqlalchemy", "starlette",
    "tensorflow", "torch", "tornado", "uvicorn",
}  # fmt: skip


def _installed_names(environment):
    listed = environment.run("python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
    assert listed.returncode == 0, listed.stderr
    return {entry["name"].lower().replace("_", "-") for entry in json.loads(listed.stdout)}


def test_the_version_is_the_distributions_own(agent_environment, distribution):
    version = distribution.wheel.name.split("-")[1]
    result = agent_environment.run("driftpost", "--version")
    assert result.returncode == 0, result.stderr
    assert version in result.stdout


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        (["--help"], "bundle"),
        (["agent", "--help"], "status"),
        (["agent", "run", "--help"], "--config"),
        (["bundle", "--help"], "inspect"),
        (["bundle", "build", "--help"], "--name"),
        (["keys", "--help"], "new"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_device_has_every_command_that_it_needs(agent_environment, command, mentions):
    result = agent_environment.run("driftpost", *command)
    assert result.returncode == 0, result.stderr
    assert mentions in result.stdout


@pytest.mark.parametrize(("group", "extra"), [("aggregator", "aggregator"), ("broker", "broker")])
def test_a_command_whose_extra_is_missing_names_the_extra_to_install(agent_environment, group, extra):
    result = agent_environment.run("driftpost", group, "run")
    assert result.returncode != 0
    assert f"driftpost[{extra}]" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_public_face_is_importable_and_needs_no_checkout(agent_environment):
    result = agent_environment.run(
        "python", "-c", "import driftpost; driftpost.Guard; print(driftpost.__file__)"
    )
    assert result.returncode == 0, result.stderr
    assert str(agent_environment.root) in result.stdout


def test_the_agents_extra_installs_nothing_heavy(agent_environment):
    assert _installed_names(agent_environment) & TOO_HEAVY_FOR_A_DEVICE == set()

import sys

import pytest

from configuration import BUDGET, SMALLEST_EFFECT, agent_toml, aggregator_toml, bundle_toml
from driftpost_agent.settings import TABLE as AGENT_SETTINGS
from driftpost_aggregator import settings as aggregator_settings
from driftpost_models.policy import parse_policy
from driftpost_models.strict_table import StrictTable
from layout import Layout, Ports
from scenario import DEVICES, FLEET, WINDOW_SECONDS
from toml_text import toml_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / 'a "quoted" folder')


@pytest.fixture
def ports():
    return Ports.choose()


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_agents_configuration_is_one_that_the_agent_takes(device, layout, ports):
    settings = AGENT_SETTINGS.parse(tomllib.loads(agent_toml(layout, ports, device)))
    assert settings.text("device.id") == device.name
    assert settings.text_map("device.attributes") == device.attributes
    assert settings.path("model.bundle") == layout.bundle(device.runtime)
    assert settings.integer("server.port") == ports.agents[device.name]


def test_the_aggregators_configuration_is_one_that_it_takes(layout, ports, tmp_path):
    file = tmp_path / "aggregator.toml"
    file.write_text(aggregator_toml(layout, ports))
    settings = aggregator_settings.load(file)
    assert settings.text("fleet.name") == FLEET
    (target,) = aggregator_settings.targets(settings)
    assert target.url == f"http://127.0.0.1:{ports.receiver}/retrain"
    assert target.secret_file == layout.secret


def test_the_policy_is_one_that_a_bundle_takes():
    policy = parse_policy(StrictTable(tomllib.loads(bundle_toml())["policy"]))
    assert (policy.budget, policy.smallest_effect) == (BUDGET, SMALLEST_EFFECT)
    assert policy.window_seconds == WINDOW_SECONDS


def test_what_is_written_is_read_back():
    sections = {
        "": {"a": 1, "b": 2.5, "c": True, "d": 'line\n"x" \\ ü'},
        "one": {"list": ["p", "q"], "map": {"k 1": "v"}},
        "two.many": [{"n": 1}, {"n": 2}],
    }
    read = tomllib.loads(toml_text(sections))
    assert read == {**sections[""], "one": sections["one"], "two": {"many": sections["two.many"]}}

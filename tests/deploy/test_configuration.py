from pathlib import Path

from driftpost_agent.settings import TABLE as AGENT
from driftpost_aggregator import settings as aggregator
from driftpost_sync.mqtt_settings import MqttSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_agents_configuration_is_accepted_and_encrypted_and_signed():
    settings = AGENT.load(DEPLOY / "agent.toml")
    assert MqttSettings.from_settings(settings).uses_tls
    assert not settings.flag("model.allow_unsigned")
    assert settings.paths("model.trusted_keys")


def test_the_aggregators_configuration_is_accepted_and_encrypted_and_guarded():
    settings = aggregator.load(DEPLOY / "aggregator.toml")
    assert MqttSettings.from_settings(settings).uses_tls
    assert settings.given("web.token_file")


def test_the_daemons_write_only_where_their_units_let_them():
    agent = AGENT.load(DEPLOY / "agent.toml")
    database = aggregator.database_url(aggregator.load(DEPLOY / "aggregator.toml"))
    for unit, path in (
        ("agent", str(agent.path("store.path"))),
        ("aggregator", database.split("://")[1][1:]),
    ):
        text = (DEPLOY / "systemd" / f"driftpost-{unit}.service").read_text()
        assert f"StateDirectory=driftpost/{unit}\n" in text
        assert path.startswith(f"/var/lib/driftpost/{unit}/")
        assert f"/etc/driftpost/{unit}.toml" in text


def test_one_fleet_one_broker_and_one_device_name_go_through_all_files():
    agent = AGENT.load(DEPLOY / "agent.toml")
    host = aggregator.load(DEPLOY / "aggregator.toml")
    assert agent.text("device.fleet") == host.text("fleet.name")
    assert (agent.text("mqtt.host"), agent.integer("mqtt.port")) == (host["mqtt.host"], host["mqtt.port"])
    assert f"listener {agent.integer('mqtt.port')}\n" in (DEPLOY / "mosquitto" / "mosquitto.conf").read_text()
    # The broker takes the certificate's name as the user that `acl` confines.
    assert agent.path("mqtt.cert").stem == agent.text("device.id")
    assert host.path("mqtt.cert").stem == "_aggregator"
